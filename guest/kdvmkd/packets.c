// SPDX-License-Identifier: MIT
#include "guest/kdvmkd/packets.h"

void packets_send(struct transport *t, uint32_t type, const struct nt_string *hdr, const struct nt_string *data)
{
	struct send_packet packet = { .kd_type = type, .hdr = hdr->Buffer, .hdr_len = hdr->Length };
	if (data && data->Length) {
		packet.data = data->Buffer;
		packet.data_len = data->Length;
	}
	transport_send(t, &packet);
}

uint32_t packets_receive(struct transport *t, uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len)
{
	if (type == KD_POLL_BREAKIN)
		return transport_poll(t) ? RECEIVE_OK : RECEIVE_TIMEOUT;
	if (!hdr) // nothing but a poll comes without
		return RECEIVE_TIMEOUT;
	struct receive_buffer buffer = { .hdr = hdr->Buffer, .hdr_size = hdr->MaximumLength };
	if (data) {
		buffer.data = data->Buffer;
		buffer.data_size = data->MaximumLength;
	}
	uint32_t code = transport_receive(t, type, &buffer);
	if (code != RECEIVE_OK)
		return code;
	hdr->Length = buffer.hdr_size;
	if (data)
		data->Length = buffer.data_len;
	if (data_len)
		*data_len = buffer.data_len;
	return RECEIVE_OK;
}
