// SPDX-License-Identifier: MIT
#include "wire/fake_ends.h"

#include <string.h>

#include "wire/le.h"

// Where things are in the bodies. Numbers of stops and prints are in fields that nobody between the ends looks at.
enum {
	AT_API = 0,
	AT_STATUS = 8,
	AT_ADDRESS = 0x10,
	AT_COUNT = 0x18,
	AT_ACTUAL = 0x1C,
	AT_STOP_NUMBER = 0x10, // the thread
};
#define WRITES_AT 0x7000000000000000ull // a write's address tells its number
#define PRINT_LEN 40u

static uint8_t memory_byte(uint64_t address)
{
	return (uint8_t)(address * 2654435761u >> 11 ^ address);
}

static void fill(uint8_t *to, uint64_t address, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		to[i] = memory_byte(address + i);
}

static bool is_filled(const uint8_t *bytes, uint64_t address, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++)
		if (bytes[i] != memory_byte(address + i))
			return false;
	return true;
}

// ---- The kernel ------------------------------------------------------------------------------------------

void fake_kernel_init(struct fake_kernel *k, uint32_t stops, uint32_t prints_per_stop)
{
	*k = (struct fake_kernel){ .stops = stops, .prints_per_stop = prints_per_stop };
}

bool fake_kernel_is_over(const struct fake_kernel *k)
{
	return k->stop == k->stops;
}

bool fake_kernel_has_print(const struct fake_kernel *k)
{
	return !fake_kernel_is_over(k) && k->printed < (k->stop + 1) * k->prints_per_stop;
}

uint32_t fake_kernel_print(struct fake_kernel *k, uint8_t body[KDCOM_BODY_MAX])
{
	memset(body, 0, KD_DEBUG_IO_SIZE);
	put_le32(body, KD_DEBUG_IO_PRINT);
	put_le32(body + 8, PRINT_LEN);
	put_le32(body + KD_DEBUG_IO_SIZE, k->printed++);
	fill(body + KD_DEBUG_IO_SIZE + 4, k->printed, PRINT_LEN - 4);
	return KD_DEBUG_IO_SIZE + PRINT_LEN;
}

void fake_kernel_stop(const struct fake_kernel *k, uint8_t body[KD_STATE_CHANGE_SIZE])
{
	fill(body, k->stop, KD_STATE_CHANGE_SIZE);
	put_le32(body, KD_STATE_EXCEPTION);
	put_le64(body + AT_STOP_NUMBER, k->stop);
}

uint32_t fake_kernel_execute(struct fake_kernel *k, const uint8_t *request, uint32_t len, uint8_t reply[KDCOM_BODY_MAX])
{
	uint32_t api = get_le32(request), count = get_le32(request + AT_COUNT);
	uint64_t address = get_le64(request + AT_ADDRESS);
	if (kd_api_resumes(api)) {
		k->stop++;
		return 0;
	}
	k->requests++;
	memcpy(reply, request, KD_MANIPULATE_SIZE);
	put_le32(reply + AT_STATUS, 0);
	if (api == KD_API_READ_VIRTUAL && count <= KD_DATA_MAX) {
		put_le32(reply + AT_ACTUAL, count);
		fill(reply + KD_MANIPULATE_SIZE, address, count);
		return KD_MANIPULATE_SIZE + count;
	}
	uint64_t number = address - WRITES_AT;
	if (api == KD_API_WRITE_VIRTUAL && number < FAKE_WRITES_MAX && len == KD_MANIPULATE_SIZE + count &&
	    is_filled(request + KD_MANIPULATE_SIZE, address, count)) {
		k->executed[number]++;
		put_le32(reply + AT_ACTUAL, count);
	} else {
		put_le32(reply + AT_STATUS, KD_STATUS_UNSUCCESSFUL);
		put_le32(reply + AT_ACTUAL, 0);
	}
	return KD_MANIPULATE_SIZE;
}

// ---- The user ----------------------------------------------------------------------------------------------

void fake_user_init(struct fake_user *u, uint32_t seed, uint32_t stops, uint32_t prints_per_stop, uint32_t requests_per_stop)
{
	*u = (struct fake_user){
		.dice = { seed * 2246822519u | 1u }, .stops = stops, .prints_per_stop = prints_per_stop, .requests_per_stop = requests_per_stop,
	};
}

void fake_user_starts_anew(struct fake_user *u)
{
	u->is_lossy |= u->prints_seen || u->stops_seen;
}

void fake_user_wrong(struct fake_user *u, const char *what)
{
	if (!u->wrong)
		u->wrong = what;
}

void fake_user_give_up(struct fake_user *u, const char *why)
{
	if (!u->error)
		u->error = why;
}

bool fake_user_on_stop(struct fake_user *u, const uint8_t *body, uint32_t len)
{
	uint64_t number = len >= KD_STATE_CHANGE_SIZE ? get_le64(body + AT_STOP_NUMBER) : UINT64_MAX;
	u->is_stopped = true;
	if (number + 1 == u->stops_seen)
		return false;
	if (number != u->stops_seen)
		fake_user_wrong(u, "a stop was skipped, or is made up");
	u->stops_seen++;
	u->has_lost_print |= !u->is_lossy && u->prints_seen != u->stops_seen * u->prints_per_stop;
	u->prints_seen = u->stops_seen * u->prints_per_stop;
	u->is_lossy = false;
	u->asked = 0;
	u->request_len = 0;
	u->is_asking = false;
	return true;
}

void fake_user_on_print(struct fake_user *u, const uint8_t *body, uint32_t len)
{
	if (len != KD_DEBUG_IO_SIZE + PRINT_LEN)
		return; // a broker's own line
	uint32_t number = get_le32(body + KD_DEBUG_IO_SIZE);
	if (!is_filled(body + KD_DEBUG_IO_SIZE + 4, number + 1, PRINT_LEN - 4))
		u->has_lost_print = true; // or another packet was taken for one
	else if (number + 1 == u->prints_seen || (number < u->prints_seen && u->is_lossy))
		u->prints_doubled++;
	else if (number < u->prints_seen)
		fake_user_wrong(u, "prints out of order");
	u->has_lost_print |= number > u->prints_seen && !u->is_lossy;
	if (number >= u->prints_seen)
		u->prints_seen = number + 1;
}

static void make_read(struct fake_user *u)
{
	uint32_t count = dice_roll(&u->dice, 4) ? dice_roll(&u->dice, 200) : dice_roll(&u->dice, KD_DATA_MAX + 1);
	put_le32(u->request, KD_API_READ_VIRTUAL);
	put_le64(u->request + AT_ADDRESS, 0xFFFFF80000000000u + ((uint64_t)dice_roll(&u->dice, 1u << 20) << 4));
	put_le32(u->request + AT_COUNT, count);
	u->request_len = KD_MANIPULATE_SIZE;
}

static void make_write(struct fake_user *u)
{
	uint64_t address = WRITES_AT + u->writes;
	uint32_t count = 1 + dice_roll(&u->dice, 100);
	u->write_state[u->writes++] = WRITE_SENT;
	put_le32(u->request, KD_API_WRITE_VIRTUAL);
	put_le64(u->request + AT_ADDRESS, address);
	put_le32(u->request + AT_COUNT, count);
	fill(u->request + KD_MANIPULATE_SIZE, address, count);
	u->request_len = KD_MANIPULATE_SIZE + count;
}

uint32_t fake_user_next(struct fake_user *u, const uint8_t **ret)
{
	u->is_asking = true;
	*ret = u->request;
	if (u->request_len)
		return u->request_len;
	if (u->asked == u->requests_per_stop) {
		u->is_asking = u->is_stopped = false;
		return 0;
	}
	u->asked++;
	memset(u->request, 0, KD_MANIPULATE_SIZE);
	if (dice_roll(&u->dice, 3) == 0 && u->writes < FAKE_WRITES_MAX)
		make_write(u);
	else
		make_read(u);
	return u->request_len;
}

static uint8_t *open_write(struct fake_user *u)
{
	bool is_write = u->request_len && get_le32(u->request) == KD_API_WRITE_VIRTUAL;
	return is_write ? &u->write_state[get_le64(u->request + AT_ADDRESS) - WRITES_AT] : NULL;
}

static bool answers(const struct fake_user *u, const uint8_t *body, uint32_t len)
{
	return u->is_asking && u->request_len && len >= KD_MANIPULATE_SIZE && get_le32(body) == get_le32(u->request) &&
	       get_le64(body + AT_ADDRESS) == get_le64(u->request + AT_ADDRESS) && get_le32(body + AT_COUNT) == get_le32(u->request + AT_COUNT);
}

bool fake_user_on_reply(struct fake_user *u, const uint8_t *body, uint32_t len)
{
	if (!answers(u, body, len))
		return false;
	uint8_t *write = open_write(u);
	uint32_t count = get_le32(body + AT_COUNT);
	if (get_le32(body + AT_STATUS) || get_le32(body + AT_ACTUAL) != count)
		fake_user_wrong(u, "a request failed that cannot fail");
	else if (!write && (len != KD_MANIPULATE_SIZE + count || !is_filled(body + KD_MANIPULATE_SIZE, get_le64(body + AT_ADDRESS), count)))
		fake_user_wrong(u, "a read brings other bytes");
	if (write)
		*write = WRITE_DONE;
	u->request_len = 0;
	u->is_asking = false;
	return true;
}

void fake_user_lost(struct fake_user *u)
{
	uint8_t *write = open_write(u);
	u->is_asking = false;
	if (!write)
		return;
	*write = WRITE_UNKNOWN;
	u->request_len = 0;
}

bool fake_user_is_done(const struct fake_user *u)
{
	return u->stops_seen == u->stops && !u->is_stopped;
}

void fake_user_judge(struct fake_user *u, const struct fake_kernel *k)
{
	for (uint32_t i = 0; i < FAKE_WRITES_MAX; i++) {
		if (k->executed[i] > 1)
			fake_user_wrong(u, "a write was executed twice");
		if (k->executed[i] && u->write_state[i] == WRITE_NONE)
			fake_user_wrong(u, "a write was executed that nobody asked for");
		if (!k->executed[i] && u->write_state[i] == WRITE_DONE)
			fake_user_wrong(u, "a write was confirmed and never executed");
	}
}

uint32_t fake_continue(uint8_t body[KDCOM_BODY_MAX])
{
	memset(body, 0, KD_MANIPULATE_SIZE);
	put_le32(body, KD_API_CONTINUE2);
	put_le32(body + 0x10, KD_CONTINUE_HANDLED);
	return KD_MANIPULATE_SIZE;
}
