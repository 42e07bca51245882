// SPDX-License-Identifier: MIT
// The .kdfiles exchange: the debugger hands over a replacement for a driver's file (KD reference, section 5.2).
#include "testkernel/nt/kd.h"

#define GENERIC_READ_SYNC 0x80100000u
#define FILE_SHARE_READ 1u
#define FILE_OPEN 1u
#define FILE_SYNCHRONOUS_NON_DIRECTORY 0x60u
#define NAME_MAX 128u

// One request and its answer; the answer's data stays in KdpMessageBuffer. Must be called between enter and leave.
static ntstatus_t exchange(struct kd_file_io *io, const void *data, size_t data_len, uint32_t *ret_len)
{
    const struct kd_file_io request = *io;
    struct kd_file_io reply;

    do {
        *io = request;
        kd_send(KD_FILE_IO, io, sizeof(*io), data, data_len);
        if (KdDebuggerNotPresent)
            return STATUS_UNSUCCESSFUL; // dropped: nobody listens
    } while (kd_receive(KD_FILE_IO, &reply, sizeof(reply), ret_len) == KD_RESEND);
    if (reply.ApiNumber != request.ApiNumber)
        return STATUS_UNSUCCESSFUL;
    *io = reply;
    return reply.Status;
}

ntstatus_t kd_file_open(const char *name, struct kd_remote_file *ret)
{
    uint16_t wide[NAME_MAX];
    struct hal_frame frame;
    struct kd_file_io io = {.ApiNumber = KD_FILE_CREATE};
    size_t len = strlen(name);
    uint32_t reply_len;

    if (len >= NAME_MAX || !KdDebuggerEnabled || KdDebuggerNotPresent)
        return STATUS_UNSUCCESSFUL;
    for (size_t i = 0; i <= len; i++)
        wide[i] = (uint8_t)name[i];
    io.u.Create.DesiredAccess = GENERIC_READ_SYNC;
    io.u.Create.ShareAccess = FILE_SHARE_READ;
    io.u.Create.CreateDisposition = FILE_OPEN;
    io.u.Create.CreateOptions = FILE_SYNCHRONOUS_NON_DIRECTORY;
    bool were_on = hal_interrupts_off();
    hal_capture(&frame);
    kd_enter(&frame);
    ntstatus_t status = exchange(&io, wide, (len + 1) * sizeof(wide[0]), &reply_len);
    kd_leave(&frame);
    hal_interrupts_restore(were_on);
    if (NT_SUCCESS(status))
        *ret = (struct kd_remote_file){.handle = io.u.Create.Handle, .length = io.u.Create.Length};
    return status;
}

ntstatus_t kd_file_read(const struct kd_remote_file *file, uint64_t offset, void *buf, uint32_t len, uint32_t *ret_len)
{
    struct hal_frame frame;
    struct kd_file_io io = {.ApiNumber = KD_FILE_READ};
    uint32_t reply_len = 0;

    len = len < KD_FILE_DATA_MAX ? len : KD_FILE_DATA_MAX;
    io.u.Transfer.Handle = file->handle;
    io.u.Transfer.Offset = offset;
    io.u.Transfer.Length = len;
    bool were_on = hal_interrupts_off();
    hal_capture(&frame);
    kd_enter(&frame);
    ntstatus_t status = exchange(&io, NULL, 0, &reply_len);
    reply_len = reply_len < len ? reply_len : len;
    if (NT_SUCCESS(status)) {
        memcpy(buf, KdpMessageBuffer, reply_len);
        *ret_len = reply_len;
    }
    kd_leave(&frame);
    hal_interrupts_restore(were_on);
    return status;
}

ntstatus_t kd_file_close(const struct kd_remote_file *file)
{
    struct hal_frame frame;
    struct kd_file_io io = {.ApiNumber = KD_FILE_CLOSE};
    uint32_t reply_len;

    io.u.CloseHandle = file->handle;
    bool were_on = hal_interrupts_off();
    hal_capture(&frame);
    kd_enter(&frame);
    ntstatus_t status = exchange(&io, NULL, 0, &reply_len);
    kd_leave(&frame);
    hal_interrupts_restore(were_on);
    return status;
}
