// SPDX-License-Identifier: MIT
// KdSendPacket and KdReceivePacket as NT calls them, for whoever stands in their place: kdvmkd.dll's exports and the run-time driver.
//
// Rules: as transport.h says. `t` has been bound for this entry. The arguments are NT's own (KD reference, section 2.5).
#ifndef GUEST_KDVMKD_PACKETS_H
#define GUEST_KDVMKD_PACKETS_H

#include "guest/kdvmkd/nt_undocumented.h"
#include "guest/kdvmkd/transport.h"

// data: NULL or with Length 0 where there is none. On return the packet is on its way or has been dropped, as transport_send.
void packets_send(struct transport *t, uint32_t type, const struct nt_string *hdr, const struct nt_string *data);

// hdr, data, data_len: NULL for a poll (type 8). -> enum receive_code; on RECEIVE_OK the lengths are set, otherwise nothing is.
uint32_t packets_receive(struct transport *t, uint32_t type, struct nt_string *hdr, struct nt_string *data, uint32_t *data_len);

#endif
