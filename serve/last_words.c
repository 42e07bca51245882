// SPDX-License-Identifier: MIT
#include "serve/last_words.h"

#include "memory/ram.h"

void last_words_deinit(struct last_words *w)
{
	ram_files_drop(&w->files);
}

void last_words_memory(struct last_words *w, const struct link_memory *m, size_t len, const int *fds, uint32_t fd_count)
{
	(void)ram_files_keep(&w->files, m, len, fds, fd_count); // not kept: there is nothing to collect from
}

void last_words_registered(struct last_words *w, const struct link_guest *guest)
{
	w->has_guest = true;
	w->has_seen = false;
	w->head = (gpa_t){ guest->head_gpa };
}

void last_words_gone(struct last_words *w)
{
	w->has_guest = w->has_seen = false;
}

void last_words_seen(struct last_words *w, uint32_t seq)
{
	w->has_seen = true;
	w->seen_seq = seq;
}

// Private RAM has no address here and is left out.
static struct gpa_map map_of(const struct ram *ram, struct gpa_range *ranges)
{
	struct gpa_map map = { .ranges = ranges };

	for (uint32_t i = 0; i < ram->piece_count; i++)
		if (ram->pieces[i].host)
			ranges[map.count++] = (struct gpa_range){
				.gpa = ram->pieces[i].gpa, .size = ram->pieces[i].size,
				.host = (uint8_t *)(uintptr_t)ram->pieces[i].host, // struct area serves writers, too; we are none
			};
	return map;
}

// Can a packet with this number still be new? 0 = nothing has been taken yet.
static bool is_new(uint32_t seq, uint32_t done)
{
	return !done || (int32_t)(seq - done) > 0;
}

static void collect_from(const struct gpa_map *map, struct last_words *w,
			 void (*give)(void *arg, const struct link_head *head, const uint8_t *body), void *arg)
{
	uint8_t body[RECORD_BODY_MAX];
	struct ring_packet packet;
	struct area area;
	uint32_t done;

	if (area_reopen(&area, map, w->head) != AREA_OK)
		return;
	done = w->has_seen ? w->seen_seq : area.tx_done_seq;
	while (ring_take(&area.tx, &packet, body) == RING_OK) {
		const struct link_head head = {
			.type = LINK_PACKET, .seq = packet.seq, .kd_type = packet.kd_type, .hdr_len = packet.hdr_len,
			.body_len = packet.hdr_len + packet.data_len,
		};

		if (!packet.hdr_len || !is_new(packet.seq, done))
			continue;
		done = packet.seq;
		give(arg, &head, body);
	}
}

void last_words_collect(struct last_words *w, void (*give)(void *arg, const struct link_head *head, const uint8_t *body), void *arg)
{
	struct gpa_range ranges[LINK_MEMORY_PIECES_MAX];
	struct ram ram;

	if (w->has_guest && w->files.len) {
		ram_init(&ram);
		if (ram_take(&ram, &w->files.memory, w->files.len, w->files.fds, w->files.memory.file_count) == RAM_OK) {
			const struct gpa_map map = map_of(&ram, ranges);

			collect_from(&map, w, give, arg);
		}
		ram_deinit(&ram);
	}
	last_words_gone(w);
}
