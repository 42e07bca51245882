// SPDX-License-Identifier: MIT
#include "target/ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "memory/walk.h"
#include "target/target.h"
#include "util/cleanup.h"
#include "util/rundir.h"
#include "util/sock.h"
#include "wire/order.h"
#include "wire/stop_page.h"

#define FDS_MAX (1u + LINK_MEMORY_FILES_MAX) // the stop page, then the files
_Static_assert(FDS_MAX <= SOCK_FDS_MAX, "one message");
#define MESSAGES_MAX 64u                     // taken at a time; the broker sends one per change of the map
// Copied between two looks at the epoch. What is lost to a guest that wakes up is small, and a look costs nothing beside it.
#define CHUNK 0x100000u

struct target_ram {
	const struct vmkd_target *target;
	char path[RUNDIR_PATH_MAX];   // "" = not to be called again
	int fd;                       // -1 = the broker hung up, or was refused
	const struct stop_page *page; // NULL = nothing has come yet
	struct ram ram;
	enum vmkd_memory_way way;
	bool is_in_step; // `epoch` was seen when the target had nothing more to say
	uint64_t epoch;
	uint64_t known_epoch; // that regs and cache belong to; 0 = none
	struct walk_regs regs;
	struct walk_cache cache;
};

// ---- messages ------------------------------------------------------------------------------------------------------------------

struct message {
	struct {
		struct link_head head;
		struct link_memory memory;
	} bytes;
	size_t len;
	int fds[FDS_MAX];
	uint32_t fd_count;
	bool is_cut; // longer than any, or more descriptors
};

static void close_descriptors(const struct message *m)
{
	for (uint32_t i = 0; i < m->fd_count; i++)
		close(m->fds[i]);
}

enum received { RECEIVED_MESSAGE, RECEIVED_NOTHING, RECEIVED_END };

static enum received receive(int fd, struct message *ret)
{
	ssize_t len = sock_receive(fd, &ret->bytes, sizeof(ret->bytes), ret->fds, FDS_MAX, &ret->fd_count, &ret->is_cut);

	if (len < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return RECEIVED_NOTHING;
	if (len < 0)
		return RECEIVED_END;
	ret->len = (size_t)len;
	ret->is_cut |= ret->len > sizeof(ret->bytes);
	return len == 0 && ret->fd_count == 0 ? RECEIVED_END : RECEIVED_MESSAGE;
}

// -> what is wrong, NULL = nothing so far
static const char *check_head(const struct message *m)
{
	const struct link_head *head = &m->bytes.head;

	if (m->is_cut)
		return "too long";
	if (m->len < sizeof(*head) || head->type != LINK_MEMORY || head->body_len != m->len - sizeof(*head))
		return "not what LINK_MEMORY is";
	return m->fd_count == 0 ? "no stop page" : NULL;
}

// A page that could be cut off under us would kill with SIGBUS. -> NULL: not a stop page of this version
static const struct stop_page *map_page(int fd)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 || st.st_size < (off_t)STOP_PAGE_SIZE)
		return NULL;
	struct stop_page *page = mmap(NULL, STOP_PAGE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return NULL;
	if (page->magic == STOP_PAGE_MAGIC && page->version == STOP_PAGE_VERSION)
		return page;
	munmap(page, STOP_PAGE_SIZE);
	return NULL;
}

static void unmap_page(const struct stop_page *page)
{
	if (page)
		munmap((void *)(uintptr_t)page, STOP_PAGE_SIZE);
}

// ---- the way -------------------------------------------------------------------------------------------------------------------

static bool can_read(const struct ram *ram, const struct ram_piece *piece)
{
	uint8_t byte;

	return ram_read(ram, piece->gpa, &byte, sizeof(byte)) == sizeof(byte);
}

// The larger part decides; whether another process may be read is found out by reading it.
static enum vmkd_memory_way find_way(const struct ram *ram)
{
	const struct ram_piece *largest = NULL;
	uint64_t mapped = 0, remote = 0;

	for (uint32_t i = 0; i < ram->piece_count; i++) {
		const struct ram_piece *piece = &ram->pieces[i];
		*(piece->host ? &mapped : &remote) += piece->size;
		if (!piece->host && (!largest || piece->size > largest->size))
			largest = piece;
	}
	if (mapped > 0 && mapped >= remote)
		return VMKD_MEMORY_MAPPED;
	if (largest && can_read(ram, largest))
		return VMKD_MEMORY_PROCESS;
	return mapped > 0 ? VMKD_MEMORY_MAPPED : VMKD_MEMORY_PACKETS;
}

static const char *way_name(enum vmkd_memory_way way)
{
	return way == VMKD_MEMORY_MAPPED ? "mapped" : way == VMKD_MEMORY_PROCESS ? "read from the VMM's process" : "not readable from here";
}

// Takes over what a message says. -> what is wrong with it; nothing is kept of it then
static const char *take(struct target_ram *ram, const struct message *m)
{
	const char *wrong = check_head(m);

	if (wrong)
		return wrong;
	const struct stop_page *page = map_page(m->fds[0]);
	if (!page)
		return "its stop page is none";
	int outcome = ram_take(&ram->ram, &m->bytes.memory, m->bytes.head.body_len, m->fds + 1, m->fd_count - 1);
	if (outcome != RAM_OK) {
		unmap_page(page);
		return outcome == RAM_E_MAP ? strerror(errno) : "pieces or files that cannot be";
	}
	unmap_page(ram->page);
	ram->page = page;
	ram->known_epoch = 0;
	ram->way = find_way(&ram->ram);
	target_log(ram->target, VMKD_LOG_DEBUG, "the VM's RAM, map %" PRIu32 ": %" PRIu32 " pieces, %s", ram->ram.generation,
		   ram->ram.piece_count, way_name(ram->way));
	return NULL;
}

static int call_broker(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd CLEANUP_CLOSE = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || path[0] == '\0' || strlen(path) >= sizeof(address.sun_path))
		return -1;
	strcpy(address.sun_path, path);
	return connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? cleanup_take_fd(&fd) : -1;
}

static void forget(struct target_ram *ram)
{
	close(ram->fd);
	ram->fd = -1;
	unmap_page(ram->page);
	ram->page = NULL;
	ram->is_in_step = false; // another broker may count the same epochs
	ram_deinit(&ram->ram);
}

static void refuse(struct target_ram *ram, const char *why)
{
	target_log(ram->target, VMKD_LOG_WARNING, "memory is read by packets: the broker sent a map of RAM that was refused: %s", why);
	forget(ram);
}

// A broker that hands out nothing hangs up at once. One that had handed out RAM does so to programs that let many maps go by
// unread, and those may call again.
static void take_hang_up(struct target_ram *ram)
{
	bool had_map = ram->page != NULL;

	forget(ram);
	if (had_map)
		ram->fd = call_broker(ram->path);
	if (ram->fd < 0)
		target_log(ram->target, VMKD_LOG_DEBUG, "memory is read by packets: the broker does not hand out RAM");
}

// Takes what has come; the last message counts.
static void take_messages(struct target_ram *ram)
{
	struct message message;

	for (uint32_t i = 0; i < MESSAGES_MAX && ram->fd >= 0; i++) {
		enum received received = receive(ram->fd, &message);
		if (received == RECEIVED_NOTHING)
			return;
		if (received == RECEIVED_END) {
			take_hang_up(ram);
			continue;
		}
		const char *wrong = take(ram, &message);
		close_descriptors(&message);
		if (wrong)
			refuse(ram, wrong);
	}
}

// ---- the epoch -----------------------------------------------------------------------------------------------------------------

static bool is_owned(const struct stop_page *page)
{
	uint32_t owner = order_load(&page->owner);

	return owner != 0 && !(owner & STOP_PAGE_OWNER_DIED);
}

// Everything that was read since the epoch was seen to be `epoch` is of that epoch, and the broker lived to keep it. Partner: the broker makes
// the epoch even before the guest gets anything, and the kernel marks the owner before the dead broker's link is closed.
static bool is_still(const struct stop_page *page, uint64_t epoch)
{
	order_fence_acquire();
	return order_load_acquire64(&page->epoch) == epoch && is_owned(page);
}

// The epoch to read in: of the stop that the target has told of. -> false: there is none now
static bool step_in(struct target_ram *ram)
{
	const struct vmkd_target *target = ram->target;

	if (!ram->page)
		take_messages(ram);
	if (!ram->page || ram->is_in_step)
		return ram->page != NULL; // whether the epoch is still that one is seen later
	// Seen first, looked for second: a target that was reset after the epoch was seen is in another one.
	uint64_t epoch = order_load_acquire64(&ram->page->epoch);
	if (epoch % 2 == 0 || !target->backend->ops->is_quiet || !target->backend->ops->is_quiet(target->backend))
		return false;
	ram->epoch = epoch;
	ram->is_in_step = true;
	return true;
}

static bool has_map(struct target_ram *ram)
{
	if (order_load(&ram->page->memory_generation) == ram->ram.generation)
		return true;
	take_messages(ram);
	return ram->page && order_load(&ram->page->memory_generation) == ram->ram.generation;
}

static void learn_registers(struct target_ram *ram)
{
	const volatile struct stop_page *page = ram->page;

	if (ram->known_epoch == ram->epoch)
		return;
	ram->regs = (struct walk_regs){ .cr0 = page->cr0, .cr3 = page->cr3, .cr4 = page->cr4, .efer = page->efer };
	walk_cache_clear(&ram->cache);
	ram->known_epoch = ram->epoch;
}

// RAM may be read; what is read counts if is_still says so afterwards.
static bool begin(struct target_ram *ram)
{
	if (!step_in(ram) || !has_map(ram) || ram->way == VMKD_MEMORY_PACKETS || !is_still(ram->page, ram->epoch))
		return false;
	learn_registers(ram);
	return true;
}

// ---- public --------------------------------------------------------------------------------------------------------------------

struct target_ram *target_ram_create(int fd, const struct vmkd_target *target)
{
	struct target_ram *ram = calloc(1, sizeof(*ram));

	if (!ram) {
		close(fd);
		return NULL;
	}
	ram->fd = fd;
	ram->target = target;
	ram_init(&ram->ram);
	return ram;
}

struct target_ram *target_ram_connect(const char *path, const struct vmkd_target *target)
{
	int fd = call_broker(path);

	if (fd < 0) {
		target_log(target, VMKD_LOG_DEBUG, "memory is read by packets: nobody answers at %s", path);
		return NULL;
	}
	struct target_ram *ram = target_ram_create(fd, target);
	if (ram)
		snprintf(ram->path, sizeof(ram->path), "%s", path);
	return ram;
}

void target_ram_destroy(struct target_ram *ram)
{
	if (!ram)
		return;
	if (ram->fd >= 0)
		close(ram->fd);
	unmap_page(ram->page);
	ram_deinit(&ram->ram);
	free(ram);
}

void target_ram_turned(struct target_ram *ram)
{
	if (ram)
		ram->is_in_step = false;
}

static size_t read_now(struct target_ram *ram, enum vmkd_space space, uint64_t address, void *buffer, size_t len)
{
	if (space == VMKD_PHYSICAL)
		return ram_read(&ram->ram, address, buffer, len);
	return walk_read(&ram->ram, &ram->regs, &ram->cache, address, buffer, len, NULL);
}

size_t target_ram_read(struct target_ram *ram, enum vmkd_space space, uint64_t address, void *buffer, size_t len)
{
	size_t done = 0, chunk, got;

	if (!ram || !begin(ram))
		return 0;
	do {
		chunk = len - done < CHUNK ? len - done : CHUNK;
		got = read_now(ram, space, address + done, (uint8_t *)buffer + done, chunk);
		if (!is_still(ram->page, ram->epoch))
			break;
		done += got;
	} while (got == chunk && done < len);
	return done;
}

enum vmkd_memory_way target_ram_way(struct target_ram *ram)
{
	return ram && begin(ram) ? ram->way : VMKD_MEMORY_PACKETS;
}
