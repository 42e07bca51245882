// SPDX-License-Identifier: MIT
// For the hook's test: a broker that does what the test says, on the library's socket. Failures are cmocka's.
#ifndef VMM_TEST_BROKER_H
#define VMM_TEST_BROKER_H

#include <sys/types.h>

#include "wire/link.h"

struct broker {
	int fd;
	struct link_head head; // of the last message read
	uint8_t body[LINK_BODY_MAX];
	struct link_memory memory; // the last LINK_MEMORY of this connection
	int memory_fds[LINK_MEMORY_FILES_MAX]; // its descriptors, closed with the next
	uint32_t memory_count; // how many there were
};

extern char broker_socket_path[108]; // set by the test before anything else

// A bare connection.
int broker_connect(void);
// Connect and take the greeting; broker_attach also attaches, which the library sees in its own time.
struct link_hello broker_hello(struct broker *b);
struct link_hello broker_attach(struct broker *b);
// Close the connection and what came with LINK_MEMORY.
void broker_close(struct broker *b);
// One message; body may be NULL when head.body_len is 0.
void broker_send(struct broker *b, struct link_head head, const void *body);
// The next message; its type, or 0 at the end of the stream. LINK_MEMORY is noted and passed over, except by broker_read_memory, for
// which it must be the next.
uint16_t broker_read(struct broker *b);
void broker_read_memory(struct broker *b);
// Ask for the counters; messages before the answer are dropped. Everything sent before has been obeyed then.
struct link_stats broker_stats(struct broker *b);
// A manipulate packet with LINK_F_* flags.
void broker_deliver(struct broker *b, uint16_t flags, const void *body, uint32_t len);

// A broker in a process of its own that attaches and then reads nothing; and its end.
pid_t broker_spawn(void);
void broker_kill(pid_t pid);
// The library has seen the last broker's end: the next one is greeted. Bounded only against a hang.
void wait_until_free(void);

#endif
