// SPDX-License-Identifier: MIT
// Any bytes as a trace that is played, asked by somebody who asks anything. The input: u16 length of the questions, questions, file. A question is
//   0 the next event   1 go on   else: a request of this API's number (0x3130 + n) for an address and a count of the next three bytes
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "trace/player.h"
#include "wire/le.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *file;
static size_t file_len;

static void look(struct player *p, unsigned *events)
{
	struct player_event e;

	player_next(p, &e);
	assert(e.kind == PLAYER_END || ++*events < 100000);
	if (e.kind == PLAYER_STOP || e.kind == PLAYER_PRINT || e.kind == PLAYER_PROMPT)
		assert(e.body >= file && e.body + e.body_len <= file + file_len);
	if (e.kind == PLAYER_STOP)
		assert(e.body_len >= KD_STATE_CHANGE_SIZE);
}

static void ask(struct player *p, const uint8_t *question)
{
	uint8_t body[KD_MANIPULATE_SIZE] = { 0 }, *reply = malloc(KD_BODY_MAX);
	uint32_t len = 0;

	put_le32(body, 0x3130u + question[0]);
	put_le64(body + 16, 0x1000u + question[1]);
	put_le32(body + 24, question[2]);
	enum player_answer answer = player_request(p, body, sizeof(body), reply, &len);
	if (answer == PLAYER_IMPOSSIBLE) {
		assert(len == 0);
	} else {
		assert(len >= KD_MANIPULATE_SIZE && len <= KD_BODY_MAX && get_le32(reply) == get_le32(body));
		if (answer == PLAYER_NOT_RECORDED)
			assert(get_le32(reply + 8) == KD_STATUS_UNSUCCESSFUL && len == KD_MANIPULATE_SIZE);
	}
	free(reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct player *p;
	const char *problem = NULL;
	unsigned events = 0;

	if (size < 2)
		return 0;
	size_t questions = get_le16(data) % 256u;
	if (questions > size - 2)
		questions = size - 2;
	file_len = size - 2 - questions;
	uint8_t *copy = malloc(file_len + !file_len);
	memcpy(copy, data + 2 + questions, file_len);
	file = copy;
	enum player_outcome outcome = player_create(file, file_len, &p, &problem);
	assert((outcome == PLAYER_BAD_FILE) == (problem != NULL));
	for (size_t i = 0; outcome == PLAYER_OK && i < questions; i++) {
		const uint8_t *q = data + 2 + i;
		if (*q == 0)
			look(p, &events);
		else if (*q == 1)
			player_resume(p);
		else if (questions - i >= 3) {
			ask(p, (const uint8_t[]){ (uint8_t)(*q - 2), q[1], q[2] });
			i += 2;
		}
	}
	if (outcome == PLAYER_OK)
		player_destroy(p);
	free(copy);
	return 0;
}
