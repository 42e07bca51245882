/* SPDX-License-Identifier: MIT */
#ifndef TESTKERNEL_VIRTUALKD_VARIANT_H
#define TESTKERNEL_VIRTUALKD_VARIANT_H
/*
 * In what the modules that speak VirtualKD's protocol differ (VirtualKD reference, sections 1.3, 4.3, 4.4, 4.8, 4.9, 8.1). One
 * file per module defines the constant.
 */
#include <stdbool.h>
#include <stdint.h>

struct variant {
    uint32_t version;         /* what it says of itself */
    bool accepts_newer;       /* a host of a later version; else its own one only */
    bool succeeds_anyway;     /* initialisation, whatever the host answers */
    bool probes;              /* for VMware, then for VirtualBox; else it knows where it is */
    unsigned tests;           /* of the connection, before anything else */
    bool has_wide_address;    /* x64: all 64 bits of the buffer's address are in RAX, not only the lower ones */
    bool takes_whole_buffers; /* what a reply says of Length and MaxLength; else Length only */
    bool has_receive_globals; /* the globals of 'r' replies count, not only those of 's' */
};
extern const struct variant variant;

#endif
