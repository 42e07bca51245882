// SPDX-License-Identifier: MIT
// What `vmkd doctor` has found out, before anybody judges it. Whoever collects leaves what it could not find out as 0, "" or FACT_UNKNOWN.
#ifndef DOCTOR_FACTS_H
#define DOCTOR_FACTS_H

#include <stdbool.h>
#include <stdint.h>

#define FACTS_PATH_MAX 512u
#define FACTS_TEXT_MAX 256u
#define FACTS_WORD_MAX 32u

enum fact { FACT_UNKNOWN, FACT_NO, FACT_YES };

struct doctor_version {
	unsigned major, minor; // 0.0 = unknown
};

// This machine, and what is installed on it.
struct doctor_host {
	char machine[FACTS_WORD_MAX]; // uname -m
	int kvm_error;                // errno of opening /dev/kvm for reading and writing; 0 = it opens
	int kvm_api;                  // of KVM_GET_API_VERSION
	char qemu[FACTS_PATH_MAX];    // a QEMU for x86 guests in PATH
	struct doctor_version qemu_version;
	char library[FACTS_PATH_MAX]; // libvmkd-vmm.so
	bool has_modules;             // kdvmkd.dll for x64 and for x86
	int ptrace_scope;             // Yama's; -1 = there is no Yama
	bool is_tracer;               // CAP_SYS_PTRACE
	char folder[FACTS_PATH_MAX];  // of the runtime files
	char folder_error[FACTS_TEXT_MAX];
	char symbols[FACTS_TEXT_MAX]; // what was tried: a server, or a folder of _NT_SYMBOL_PATH
	bool is_symbols_chosen;       // by _NT_SYMBOL_PATH; else it is Microsoft's server
	enum fact is_symbols_reached;
	char symbols_error[FACTS_TEXT_MAX]; // why not, or why it was not tried
};

// One VM, from its folder, /proc, the library's greeting where nobody serves it, else its broker's words.
struct doctor_vm {
	char name[FACTS_WORD_MAX * 2 + 1];
	char others[FACTS_TEXT_MAX]; // the names of the VMs there are
	bool is_alive;
	int pid;            // 0 = unknown
	unsigned age_s;     // of that process; 0 = unknown
	char program[FACTS_PATH_MAX]; // its executable
	struct doctor_version program_version;
	char link[FACTS_WORD_MAX]; // "hook", "debugcon", "serial"
	enum fact is_library_mapped; // libvmkd-vmm.so is in its memory
	bool is_vmm_listening;

	int broker_pid;
	char broker_error[FACTS_TEXT_MAX]; // it cannot be asked
	unsigned broker_s;  // since it came
	char state[FACTS_WORD_MAX * 2];    // as in `vmkd list`
	char remark[FACTS_TEXT_MAX];       // its first
	unsigned client_count;
	char client[FACTS_WORD_MAX * 2];   // the one with control, else the first

	bool has_calls;     // the next four are known
	uint64_t calls;     // that the guest has made
	uint64_t call_ms;   // since the last one
	bool is_waiting;    // in a call, for a debugger
	uint64_t calls_before; // this broker came

	bool is_registered; // a guest module
	char gone[FACTS_WORD_MAX]; // why not any more: "reset", "shutdown", "bye", "area", "error"
	char arch[FACTS_WORD_MAX], dialect[FACTS_WORD_MAX], guest_version[FACTS_WORD_MAX];
	enum fact booted_alone;
	// The other side's versions: 0, "" = not told.
	char refused_version[FACTS_WORD_MAX]; // of a guest module
	uint32_t library_version;             // LINK_VERSION of the library in the VMM
	uint32_t broker_version;              // LINK_VERSION of the broker; 0 with a broker that does not know the word

	char ram_mode[FACTS_WORD_MAX], ram_way[FACTS_WORD_MAX]; // as in serve/status.h
	char ram_remark[FACTS_TEXT_MAX];
	enum fact is_nested;
};

struct doctor_facts {
	struct doctor_host host;
	const struct doctor_vm *vm; // NULL = no VM was named
};

#endif
