/* launch_child: what the launcher starts (the rank program once, or once a rank, or mpirun above
 * the ranks), what it writes (launch_output.c), and how it and all that stems from it is ended
 * (launch_stop.c). */
#ifndef HLM_EXEC_LAUNCH_CHILD_H
#define HLM_EXEC_LAUNCH_CHILD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/arena.h"
#include "base/err.h"
#include "exec/launch/launch.h"
#include "exec/launch/launch_control.h"

enum { HLM_CHILD_TAIL = 8192 };

struct hlm_child_process {
    pid_t pid; /* leads its own process group */
    bool ended;
    int wait_status; /* where ended */
};

struct hlm_child {
    struct hlm_child_process *processes; /* PROCESSES: [num_ranks], else one */
    int32_t num_processes;
    const char *name; /* "mpirun" or the program, for messages */
    const char
        *word; /* of the control channel: every process of the run has it in its environment */
    bool is_mpirun;
    int output;      /* both streams of all its processes; -1 after their end */
    bool ended;      /* all of them */
    int wait_status; /* of the first that ended badly; 0: none did */
    char tail[HLM_CHILD_TAIL + 1];
    size_t tail_length;
};

/* Starts it with HLM_CONTROL and the environment that ranks need (what the user has set stays; each
 * of PROCESSES finds the variables of torchrun, rank 0 its listening socket in HLM_MEETING), with
 * /dev/null as stdin, `mask` as its blocked signals, and so that it dies with this thread.
 * hosts NULL: this machine. HLM_ENV: "cannot start ..."; then nothing runs. */
HLM_MUST_CHECK enum hlm_status hlm_child_start(struct hlm_child *child, struct hlm_arena *arena,
                                               const struct hlm_launch_config *config,
                                               const struct hlm_control *control,
                                               const struct hlm_launch_hosts *hosts,
                                               const sigset_t *mask, struct hlm_err *err);

/* Moves what the output holds into the tail; does not block. */
void hlm_child_read(struct hlm_child *child);

/* Notices ends of processes; does not block. */
void hlm_child_reap(struct hlm_child *child);

/* Ends them and every process of the run on this machine, also those whose mpirun died before
 * them, and reaps them: SIGTERM, SIGKILL after a second; mpirun gets three seconds, in which it
 * ends the ranks on other machines. */
void hlm_child_stop(struct hlm_child *child);

/* "was killed by signal 9 (Killed)", "ended with exit code 3". */
const char *hlm_child_end_text(struct hlm_arena *arena, int wait_status);

/* Which rank mpirun says to have ended first and badly, and how ("was killed by signal 9
 * (Killed)"); *out_exit_code is 0 where it was a signal. -1: mpirun has said nothing of the kind.
 */
int32_t hlm_child_culprit(const struct hlm_child *child, struct hlm_arena *arena,
                          const char **out_how, int *out_exit_code);

/* The last lines of the output, joined by " | "; where the ranks have written nothing, and
 * of_mpirun_too, the first lines of mpirun's framed explanations. "" for none. */
const char *hlm_child_last_lines(const struct hlm_child *child, struct hlm_arena *arena,
                                 bool of_mpirun_too);

#endif
