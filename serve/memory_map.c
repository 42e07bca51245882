// SPDX-License-Identifier: MIT
#include "serve/memory_map.h"

#include "util/mtree.h"

#define PAGE 4096u
#define GPA_MAX (UINT64_C(1) << 52) // the architecture's limit of physical addresses

// Whole pages only. -> false: impossible numbers.
static bool add_piece(struct memory_map *map, const struct mtree_range *r, uint64_t file_size)
{
	uint64_t size, skip = -r->first % PAGE;
	struct memory_piece *last = map->count ? &map->pieces[map->count - 1] : NULL;

	if (r->last < r->first || r->last >= GPA_MAX)
		return false;
	size = r->last - r->first + 1;
	if (r->offset > file_size || size > file_size - r->offset || (r->first - r->offset) % PAGE)
		return false;
	if (last && r->first < last->gpa + last->size)
		return false;
	if (size < skip + PAGE)
		return true;
	if (map->count == MEMORY_MAP_MAX)
		return false;
	map->pieces[map->count++] = (struct memory_piece){
		.gpa = r->first + skip,
		.size = (size - skip) / PAGE * PAGE,
		.offset = r->offset + skip,
	};
	return true;
}

int memory_map_parse(const char *text, size_t len, const char *ram_id, uint64_t file_size, struct memory_map *ret)
{
	struct memory_map map = { 0 };
	struct mtree_range range;
	struct mtree tree;

	if (!ram_id[0] || !mtree_open(&tree, text, len))
		return MEMORY_MAP_E_VIEW;
	while (mtree_next(&tree, &range)) {
		if (mtree_is_type(&range, "ram") && mtree_is_name(&range, ram_id) && !add_piece(&map, &range, file_size))
			return MEMORY_MAP_E_TEXT;
	}
	if (!map.count)
		return MEMORY_MAP_E_EMPTY;
	*ret = map;
	return MEMORY_MAP_OK;
}
