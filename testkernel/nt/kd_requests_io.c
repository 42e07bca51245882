// SPDX-License-Identifier: MIT
// Ports and PCI configuration space.
#include "testkernel/nt/kd.h"

#define INTERFACE_ISA 1
#define ADDRESS_SPACE_IO 1
#define BUS_PCI_CONFIGURATION 4
#define PCI_CONFIGURATION_SIZE 256u

static enum kd_outcome finish(struct kd_request *r, ntstatus_t status)
{
    r->m.ReturnStatus = status;
    r->data_len = 0;
    return KD_REPLY;
}

static ntstatus_t check_port(uint64_t address, uint32_t size)
{
    if (size != 1 && size != 2 && size != 4)
        return STATUS_INVALID_PARAMETER;
    if ((address & (size - 1)) != 0)
        return STATUS_DATATYPE_MISALIGNMENT;
    return address < 0x10000 ? STATUS_SUCCESS : STATUS_INVALID_PARAMETER; // aligned, so its end is below as well
}

static ntstatus_t port_read(uint64_t address, uint32_t *size, uint32_t *value)
{
    ntstatus_t status = check_port(address, *size);
    uint16_t port = (uint16_t)address;

    *value = 0;
    if (status == STATUS_SUCCESS)
        *value = *size == 1 ? hal_in8(port) : *size == 2 ? hal_in16(port) : hal_in32(port);
    else
        *size = 0;
    return status;
}

static ntstatus_t port_write(uint64_t address, uint32_t *size, uint32_t value)
{
    ntstatus_t status = check_port(address, *size);
    uint16_t port = (uint16_t)address;

    if (status != STATUS_SUCCESS)
        *size = 0;
    else if (*size == 1)
        hal_out8(port, (uint8_t)value);
    else if (*size == 2)
        hal_out16(port, (uint16_t)value);
    else
        hal_out32(port, value);
    return status;
}

enum kd_outcome kd_read_io(struct kd_request *r)
{
    struct kd_io *io = &r->m.u.Io;

    return finish(r, port_read(io->IoAddress, &io->DataSize, &io->DataValue));
}

enum kd_outcome kd_write_io(struct kd_request *r)
{
    struct kd_io *io = &r->m.u.Io;

    return finish(r, port_write(io->IoAddress, &io->DataSize, io->DataValue));
}

static bool is_plain_io(const struct kd_io_extended *io)
{
    return io->InterfaceType == INTERFACE_ISA && io->BusNumber == 0 && io->AddressSpace == ADDRESS_SPACE_IO;
}

enum kd_outcome kd_read_io_extended(struct kd_request *r)
{
    struct kd_io_extended *io = &r->m.u.IoExtended;

    if (!is_plain_io(io))
        return finish(r, STATUS_INVALID_PARAMETER);
    return finish(r, port_read(io->IoAddress, &io->DataSize, &io->DataValue));
}

enum kd_outcome kd_write_io_extended(struct kd_request *r)
{
    struct kd_io_extended *io = &r->m.u.IoExtended;

    if (!is_plain_io(io))
        return finish(r, STATUS_INVALID_PARAMETER);
    return finish(r, port_write(io->IoAddress, &io->DataSize, io->DataValue));
}

struct pci_range {
    unsigned bus, device, function;
    uint32_t offset, length;
};

static bool pci_range_of(const struct kd_bus *b, uint32_t limit, struct pci_range *ret)
{
    if (b->BusDataType != BUS_PCI_CONFIGURATION || b->BusNumber > 255 || b->Offset > PCI_CONFIGURATION_SIZE ||
        b->SlotNumber > 0xFF)
        return false;
    uint32_t room = PCI_CONFIGURATION_SIZE - b->Offset;
    uint32_t length = b->Length < room ? b->Length : room;
    *ret = (struct pci_range){
        .bus = b->BusNumber,
        .device = b->SlotNumber & 0x1F,
        .function = b->SlotNumber >> 5,
        .offset = b->Offset,
        .length = length < limit ? length : limit,
    };
    return true;
}

static bool pci_is_present(const struct pci_range *p)
{
    return hal_pci_read(p->bus, p->device, p->function, 0, 2) != 0xFFFF;
}

enum kd_outcome kd_get_bus_data(struct kd_request *r)
{
    struct kd_bus *b = &r->m.u.Bus;
    struct pci_range p;

    if (!pci_range_of(b, KD_DATA_MAX, &p) || !pci_is_present(&p)) {
        b->Length = 0;
        return finish(r, STATUS_UNSUCCESSFUL);
    }
    for (uint32_t i = 0; i < p.length; i++)
        r->data[i] = (uint8_t)hal_pci_read(p.bus, p.device, p.function, p.offset + i, 1);
    b->Length = p.length;
    r->m.ReturnStatus = STATUS_SUCCESS;
    r->data_len = p.length;
    return KD_REPLY;
}

enum kd_outcome kd_set_bus_data(struct kd_request *r)
{
    struct kd_bus *b = &r->m.u.Bus;
    struct pci_range p;

    if (!pci_range_of(b, r->data_len, &p) || !pci_is_present(&p)) {
        b->Length = 0;
        return finish(r, STATUS_UNSUCCESSFUL);
    }
    for (uint32_t i = 0; i < p.length; i++)
        hal_pci_write(p.bus, p.device, p.function, p.offset + i, 1, r->data[i]);
    b->Length = p.length;
    return finish(r, STATUS_SUCCESS);
}
