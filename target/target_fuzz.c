// SPDX-License-Identifier: MIT
// Any bytes as what a target sends, while a debugger asks for everything: no crash, no hang. The bytes are packets in short form, so that the
// fuzzer need not guess checksums and ids: length, type, body; framed here as the next packet the debugger expects, or, with the
// top bit of the type, sent as they are.
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vmkd/vmkd.h"
#include "wire/kdcom.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PACKETS_MAX 64

static void put_frame(int fd, uint16_t type, const uint8_t *body, uint16_t len, uint32_t id)
{
	uint8_t frame[KDCOM_FRAME_MAX];
	uint32_t sum = 0;

	for (uint16_t i = 0; i < len; i++)
		sum += body[i];
	put_le32(frame, KDCOM_DATA_LEADER);
	put_le16(frame + 4, type);
	put_le16(frame + 6, len);
	put_le32(frame + 8, id);
	put_le32(frame + 12, sum);
	memcpy(frame + KDCOM_HEAD, body, len);
	frame[KDCOM_HEAD + len] = KDCOM_TRAILER;
	(void)!send(fd, frame, KDCOM_HEAD + len + 1u, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// The answer to the debugger's RESET, then every packet with the id that follows.
static void put_all(int fd, const uint8_t *data, size_t size)
{
	static const uint8_t RESET[KDCOM_HEAD] = { 0x69, 0x69, 0x69, 0x69, KDCOM_RESET };
	uint32_t id = KDCOM_ID_INITIAL;

	(void)!send(fd, RESET, sizeof(RESET), MSG_NOSIGNAL | MSG_DONTWAIT);
	for (int i = 0; i < PACKETS_MAX && size >= 3; i++) {
		uint16_t len = get_le16(data);
		uint8_t type = data[2];
		data += 3;
		size -= 3;
		if (len > size)
			len = (uint16_t)size;
		if (len > KDCOM_BODY_MAX)
			len = KDCOM_BODY_MAX;
		if (type & 0x80) {
			(void)!send(fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		} else {
			put_frame(fd, type, data, len, type & 0x40 ? KDCOM_ID_INITIAL | KDCOM_ID_SYNC : id);
			id = type & 0x40 ? KDCOM_ID_INITIAL | 1 : id ^ 1;
		}
		data += len;
		size -= len;
	}
	shutdown(fd, SHUT_WR);
}

static void ask_everything(struct vmkd_target *target)
{
	struct vmkd_version version;
	struct vmkd_modules *modules = NULL;
	struct vmkd_register reg;
	struct vmkd_value value;
	uint8_t bytes[6000];
	uint32_t id;
	size_t done;

	vmkd_error_destroy(vmkd_target_version(target, &version));
	vmkd_error_destroy(vmkd_target_read(target, VMKD_VIRTUAL, 0x1000, bytes, sizeof(bytes), &done));
	if (done > sizeof(bytes))
		abort();
	if (vmkd_register_find(VMKD_ARCH_X64, "rip", &reg))
		vmkd_error_destroy(vmkd_target_register_get(target, &reg, &value));
	vmkd_error_destroy(vmkd_modules_read(target, &modules));
	vmkd_modules_destroy(modules);
	vmkd_error_destroy(vmkd_breakpoint_set(target, 0x2000, false, &id));
	vmkd_error_destroy(vmkd_target_switch_processor(target, 1));
	vmkd_error_destroy(vmkd_target_step(target));
	vmkd_error_destroy(vmkd_target_go(target, VMKD_CONTINUE_HANDLED));
}

static void converse(struct vmkd_target *target)
{
	struct vmkd_event event;

	for (int i = 0; i < 200; i++) {
		struct vmkd_error *error = vmkd_target_wait(target, 0, &event);
		bool is_over = error || event.kind == VMKD_EVENT_NONE;
		vmkd_error_destroy(error);
		if (is_over)
			return;
		if (event.text_len != 0 && event.text[event.text_len] != '\0')
			abort();
		if (vmkd_target_state(target) == VMKD_STATE_PROMPT)
			vmkd_error_destroy(vmkd_target_answer_prompt(target, "x", 1));
		if (vmkd_target_state(target) == VMKD_STATE_FILE)
			vmkd_error_destroy(vmkd_target_answer_file(target, 0, 1, 2, "abc", 3));
		if (vmkd_target_state(target) == VMKD_STATE_STOPPED)
			ask_everything(target);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	// The stream ends behind the input, so a request that gets no answer ends with the connection, not with its time.
	struct vmkd_open_options options = { .request_timeout_ms = 50, .resend_ms = 20, .wants_files = size % 2 };
	struct vmkd_target *target;
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
		abort();
	put_all(fds[1], data, size);
	struct vmkd_error *error = vmkd_target_open_fd(fds[0], "fuzz", &options, &target);
	if (error)
		abort();
	converse(target);
	vmkd_error_destroy(vmkd_target_detach(target, true));
	vmkd_target_close(target);
	close(fds[1]);
	return 0;
}
