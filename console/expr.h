// SPDX-License-Identifier: MIT
// Expressions in the dialect of WinDbg's MASM evaluator, and the address ranges that commands take.
//
//   numbers    hexadecimal unless marked: 0x1f, 0n31, 0t37 (octal), 0y11111; fffff800`00001000 and 1fh are fine too
//   names      @rax or rax (a number wins where both are possible: use @), $ip, $csp, `.` (current instruction), modules
//              (nt = its base), symbols when a resolver knows them
//   operators  ( ) [ ]   unary + - ~   poi by wo dwo qwo hi low (of a parenthesis)   * / % mod   + -   << >>   < > <= >= == !=
//              & and   ^ xor   | or
//   values     64-bit, unsigned, wrapping; cut to 32 bits for a 32-bit target
//
// Rules: no I/O of its own: what a name or a memory access means, the caller's hooks say. The text is only read. Nesting is bounded, so
// that no input overflows the stack. Pure: any thread.
#ifndef CONSOLE_EXPR_H
#define CONSOLE_EXPR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vmkd_error;

#define EXPR_DEPTH_MAX 64   // of parentheses and unary operators
#define EXPR_NAME_MAX 256   // bytes of one name

struct expr_env {
	void *closure;
	bool is_32bit;
	// A register or pseudo-register by name (without @). is_marked: it was written with @, so that nothing else can be meant; otherwise
	// only names that are no likely module count (nt is a flag, too). Return true and its value; false = no such (or not readable now).
	bool (*get_register)(void *closure, const char *name, bool is_marked, uint64_t *ret);
	// A module or a symbol. Return NULL, an error to show, or EXPR_UNKNOWN_NAME for "no such name".
	struct vmkd_error *(*resolve)(void *closure, const char *name, uint64_t *ret);
	// `size` bytes (1, 2, 4, 8) at an address.
	struct vmkd_error *(*read)(void *closure, uint64_t address, unsigned size, uint64_t *ret);
};

// What `resolve` returns for a name that it does not know. Never freed, never shown.
extern struct vmkd_error expr_unknown_name;
#define EXPR_UNKNOWN_NAME (&expr_unknown_name)

// Evaluates as much of *text as is one expression and moves *text behind it and the blanks that follow. An expression ends where
// an operand is followed by something that is no operator: a blank, then a name, a number, a string. (So `db nt L20` and
// `eb 1000 12 -3` read as WinDbg reads them: a blank followed by + or - and no blank after it starts a new expression only
// in lists, see expr_list_item.)
// Return NULL and the value; ARGUMENT with what was expected and where, or the error of a hook. *text moves only on success.
struct vmkd_error *expr_parse(const char **text, const struct expr_env *env, uint64_t *ret);

// One value of a list such as `eb addr v1 v2 …`: like expr_parse, but a blank ends it whatever follows, outside parentheses.
struct vmkd_error *expr_list_item(const char **text, const struct expr_env *env, uint64_t *ret);

// The whole of `text` as one expression; anything left over is an error.
struct vmkd_error *expr_evaluate(const char *text, const struct expr_env *env, uint64_t *ret);

struct expr_range {
	uint64_t address;
	uint64_t len;     // bytes; 0 = none was given
	bool has_address; // an address was given
	bool is_counted;  // the length was given with L
};

#define EXPR_RANGE_MAX 0x10000000ull // 256 MiB, WinDbg's own limit without L?; `L?` lifts it

// A range: nothing; ADDRESS; ADDRESS L COUNT; ADDRESS L-COUNT (the bytes before it); ADDRESS L?COUNT (no limit);
// ADDRESS LAST (inclusive last address). COUNT is in elements of `unit` bytes.
// Moves *text behind the range. Return NULL and the range; ARGUMENT, or the error of a hook.
struct vmkd_error *expr_parse_range(const char **text, const struct expr_env *env, unsigned unit, struct expr_range *ret);

#endif
