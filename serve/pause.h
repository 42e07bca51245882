// SPDX-License-Identifier: MIT
// Pausing a VM over QMP while its guest is stopped in the debugger and nothing is asked of it, so that the guest's waiting loop costs
// the host no CPU; and letting it run before it is given anything.
//
//   RUNS --silence--> STOPPING --QEMU has stopped it--> PAUSED --it is given something--> CONTINUING --> RUNS
//
// Whose pause it is: QEMU knows one pause, and says STOP and RESUME to all its monitors. A STOP that we have not asked for is somebody
// else's: then nothing is done until RESUME. A RESUME that we have not asked for ends our pause, and there is no new one until the guest
// has been given something. A `stop` to a VM that is paused already changes nothing in QEMU and is not told to anybody, so it cannot be
// honoured: `vmkd list` says whose pause it is.
//
// While our pause is in force, or may be, the file `paused` stands in the VM's folder. Whoever becomes the monitor's client and finds it
// takes the pause back (pause_connected): the next broker, or the watchdog (serve/watchdog.h).
//
// Rules: one thread, on the broker's loop. Nothing here knows the guest.
#ifndef SERVE_PAUSE_H
#define SERVE_PAUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "serve/qmp.h"
#include "util/error.h"
#include "util/loop.h"
#include "util/rundir.h"

enum pause_state { PAUSE_RUNS, PAUSE_STOPPING, PAUSE_PAUSED, PAUSE_CONTINUING };

// How often memory is looked at during a pause: a snapshot loaded then brings no event at all.
#define PAUSE_LOOK_MS 1000u

struct pause {
	struct loop *loop;
	struct qmp *qmp;  // borrowed; NULL = not connected
	uint32_t ms;      // of silence before a pause; 0 = never pauses, only takes back what others have left
	int watchdog_fd;  // the watchdog's pipe; -1 = none, and then no pause
	char mark[RUNDIR_PATH_MAX];
	struct loop_timer timer; // RUNS: the silence; PAUSED: look
	void (*look)(void *arg); // PAUSED, every PAUSE_LOOK_MS; may call pause_note
	void *arg;

	enum pause_state state;
	bool is_idle;      // the guest waits and has been given nothing
	bool is_others;    // somebody else has paused the VM
	bool is_undone;    // somebody else has ended our pause: none before the guest has been given something
	bool is_stop_seen; // STOPPING: a STOP came behind the answer to query-status
	uint64_t pauses;   // ours, since the start
	uint64_t undone;   // of them, ended by somebody else
};

// Not connected. vm_name's folder exists; look, arg: see above. -> NULL, or an error (the name).
ERROR_MUST_CHECK struct error *pause_init(struct pause *p, struct loop *loop, const char *vm_name, uint32_t ms, int watchdog_fd,
					  void (*look)(void *arg), void *arg);
// Cancels the timer. A pause in force stays, with its mark: others take it back.
void pause_deinit(struct pause *p);

// The monitor is there: what an earlier broker has left is taken back. / It is gone, answers will not come.
void pause_connected(struct pause *p, struct qmp *qmp);
void pause_disconnected(struct pause *p);

// An event of QEMU's, every one of them.
void pause_event(struct pause *p, const char *name);

// Does the guest wait for something, and has it been given nothing? Called after everything that may have changed that; cheap when it has
// not. is_idle false lets the VM run, whatever was given has to be in memory already.
void pause_note(struct pause *p, bool is_idle);

// True while a pause of ours is in force.
bool pause_is_in_force(const struct pause *p);
// A mark is there: a pause of somebody's is to be taken back.
bool pause_has_mark(const struct pause *p);

#endif
