// SPDX-License-Identifier: MIT
#include "target/stop.h"

#include <string.h>

static uint64_t plain(uint32_t machine, uint64_t address)
{
	return machine == KD_MACHINE_X86 ? (uint32_t)address : address;
}

static void fill_exception(const struct kd_exception *exception, uint32_t machine, struct vmkd_event *event)
{
	event->kind = VMKD_EVENT_EXCEPTION;
	event->exception_code = exception->code;
	event->exception_flags = exception->flags;
	event->exception_address = plain(machine, exception->address);
	event->parameter_count = exception->parameter_count;
	for (uint32_t i = 0; i < exception->parameter_count; i++)
		event->parameters[i] = plain(machine, exception->parameters[i]);
	event->is_first_chance = exception->first_chance != 0;
}

static void fill_load(const struct kd_load_symbols *load, uint32_t machine, struct vmkd_event *event)
{
	bool is_notice = load->is_unload && (load->base == KD_BASE_REBOOT || load->base == KD_BASE_HIBERNATE);

	event->kind = is_notice ? VMKD_EVENT_SHUTDOWN : VMKD_EVENT_MODULE;
	event->is_unload = load->is_unload != 0;
	event->module_base = is_notice ? load->base : plain(machine, load->base);
	event->module_size = load->image_size;
	event->module_checksum = load->checksum;
	event->module_process = load->process_id;
}

// The command of `name NUL command NUL`.
static size_t command_text(const struct kd_state_change *change, const uint8_t **ret_text)
{
	const uint8_t *end = change->data + change->data_len;
	const uint8_t *command = change->data_len ? memchr(change->data, 0, change->data_len) : NULL;

	if (!command)
		return 0;
	*ret_text = command + 1;
	return strnlen((const char *)command + 1, (size_t)(end - command - 1));
}

size_t stop_event(const struct kd_state_change *change, uint32_t machine, struct vmkd_event *ret, const uint8_t **ret_text)
{
	*ret = (struct vmkd_event){ .processor = change->processor, .thread = plain(machine, change->thread), .pc = plain(machine, change->pc) };
	*ret_text = change->data;
	switch (change->state) {
	case KD_STATE_EXCEPTION: fill_exception(&change->u.exception, machine, ret); return 0;
	case KD_STATE_LOAD_SYMBOLS:
		fill_load(&change->u.load_symbols, machine, ret);
		return strnlen((const char *)change->data, change->u.load_symbols.name_len);
	default: ret->kind = VMKD_EVENT_COMMAND; return command_text(change, ret_text);
	}
}

size_t stop_print_event(const struct kd_debug_io *io, struct vmkd_event *ret, const uint8_t **ret_text)
{
	const uint32_t most = KD_BODY_MAX - KD_DEBUG_IO_SIZE;
	bool is_prompt = io->api == KD_DEBUG_IO_PROMPT;

	*ret = (struct vmkd_event){ .kind = is_prompt ? VMKD_EVENT_PROMPT : VMKD_EVENT_PRINT, .processor = io->processor };
	if (is_prompt)
		ret->prompt_max = io->read_length < most ? io->read_length : most;
	*ret_text = io->data;
	return io->length < io->data_len ? io->length : io->data_len; // data after the text of a prompt is none of its text
}
