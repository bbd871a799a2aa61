/* heartbeat: how a rank tells its launcher that it lives, what it is doing, and how it ended.
 *
 * The launcher (exec/launch/launch.h) puts the address of its control socket into the environment
 * variable HLM_CONTROL. A rank connects once and a thread of its own then sends a line every half
 * second. A rank that was started by other means (mpirun by hand, srun, torchrun) finds no such
 * variable: its heartbeat is NULL, which every function here accepts and ignores.
 *
 * When the connection ends from the other side, the launcher is gone (even killed with -9): the
 * thread ends the process at once with _exit(HLM_FAILED), so that no rank outlives its launcher.
 * With ranks as threads every rank has its own heartbeat.
 *
 * Order in a rank program: start (before the transport is made, the rank number comes from
 * exec/launch/launch_env.h or from the thread's index), set ... set, release of the transport,
 * stop. On a failure: report, then abort of the transport, then stop with done false and exit.
 */
#ifndef HLM_EXEC_HEARTBEAT_H
#define HLM_EXEC_HEARTBEAT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct hlm_heartbeat;

/* Connects to the launcher as `rank` of the world and starts the thread. Without HLM_CONTROL *out
 * is NULL. HLM_ENV when the variable is malformed or the launcher can't be reached within five
 * seconds. */
HLM_MUST_CHECK enum hlm_status hlm_heartbeat_start(int32_t rank, struct hlm_heartbeat **out,
                                                   struct hlm_err *err);

/* What the rank does from now on; costs a few atomic stores, so call it for every operation. Each
 * call counts as progress: a rank that makes none for the launcher's watchdog time is taken for
 * hung. The texts are not copied: they must live until stop (literals, tables, the arena of the
 * plan). action ("0F3") and operation ("all_reduce over tp") may be NULL; step -1: before the
 * first. `waiting` says that the operation needs other ranks to come along, so that among ranks
 * that stand still the launcher blames one that does not wait. Called by one thread. */
void hlm_heartbeat_set(struct hlm_heartbeat *heartbeat, int64_t step, const char *action,
                       const char *operation, bool waiting);

/* Sends one line of progress for the user ("step 3: loss 4.2, 1.3 s"); the launcher hands it on.
 * Line ends in it become spaces. Counts as progress of the watchdog too. */
void hlm_heartbeat_progress(struct hlm_heartbeat *heartbeat, const char *format, ...)
    HLM_PRINTF(2, 3);

/* Tells the launcher why this rank fails (bad input, full disk, a peer that left, ...). The
 * launcher stops all ranks and shows the earliest report of all. Returns once the kernel has taken
 * the message. */
void hlm_heartbeat_report(struct hlm_heartbeat *heartbeat, const struct hlm_err *failure);

/* Ends the thread, says "done" where `done`, closes and frees. A rank that goes without done has
 * failed. */
void hlm_heartbeat_stop(struct hlm_heartbeat *heartbeat, bool done);

#endif
