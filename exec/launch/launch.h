/* launch: starts the ranks of a run and watches over them, inside the hlmplan process.
 *
 * The ranks are one process that hosts all of them as threads, or a process each on this machine,
 * or processes under mpirun, on this machine or on several. They report over a control channel
 * (exec/launch/heartbeat.h): a Unix-domain socket in a private folder, or TCP with a secret word
 * when other machines take part. The launcher ends the run, kills every process that belongs to it,
 * removes its folder and returns one error when
 *   - a rank reports a failure: its status and text (the earliest, when several report);
 *   - a rank vanishes without "done": which rank, where, what it was doing, the signal or exit
 *     code;
 *   - a rank sends no beat for silence_s (stopped, frozen machine; three times that when the kernel
 *     says that the process may run but gets no processor);
 *   - a rank makes no progress for watchdog_s, or does not connect within start_s;
 *   - SIGINT, SIGTERM or SIGHUP arrives;
 *   - mpirun or the rank program can't be started (HLM_ENV).
 * Killing takes about a second: SIGTERM, then SIGKILL after one second. Ranks see the end of the
 * control connection and leave by themselves, so none survives when this process is killed with -9
 * either.
 *
 * What the processes write to stdout and stderr is kept from the user; its last lines join the
 * error only where no rank has reported the reason. Depends on base alone: no MPI here.
 */
#ifndef HLM_EXEC_LAUNCH_H
#define HLM_EXEC_LAUNCH_H

#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"

/* THREADS: `program args...`, one process for all ranks. PROCESSES: the same once for each rank, on
 * this machine, with the environment that torchrun would give it and the meeting of
 * exec/launch/launch_meeting.h at 127.0.0.1. MPI: `mpirun -np N program args...`. */
#define HLM_LAUNCH_MAP(X) X(THREADS, "threads") X(PROCESSES, "processes") X(MPI, "mpi")
enum hlm_launch_kind {
#define X(name, text) HLM_LAUNCH_##name,
    HLM_LAUNCH_MAP(X)
#undef X
};

struct hlm_launch_config {
    enum hlm_launch_kind kind;
    const char *program;     /* path of hlmplan-rank, the same on all machines */
    const char *const *args; /* its arguments, without the program; ends with NULL */
    int32_t num_ranks;       /* ranks that must connect and say done */

    /* MPI over several machines: "host:slots,host:slots" (no ":slots": one), else NULL. Ranks fill
     * the hosts in this order, as devices are numbered in a cluster. The way to reach them (ssh or
     * OMPI_MCA_plm_rsh_agent, OMPI_MCA_btl_tcp_if_include, ...) is the user's environment. */
    const char *hosts;
    const char *mpirun; /* NULL: "mpirun", looked up in PATH */

    double watchdog_s; /* without progress of a rank; 0: 60 s */
    double silence_s;  /* without a beat; 0: 3 s */
    double start_s;    /* until all ranks have connected; 0: 60 s */

    /* Called for each progress line of a rank; NULL: dropped. */
    void (*on_progress)(void *context, int32_t rank, const char *text);
    void *context;
};

/* The hosts of a plan that does not have its ranks in the order of devices. `hosts` names machines
 * as devices are numbered, a slot each; device_of [num_ranks] says where each rank belongs; *out
 * names the machines that have ranks as ranks are numbered, with as many slots as they have ranks,
 * for hlm_launch_config. Ranks in the order of devices 0, 1, ...: `hosts` itself. HLM_USAGE: hosts
 * is misspelt or has no slot for some device; HLM_ENV: the ranks of a machine are not in a row, so
 * that it can't be filled in order. */
HLM_MUST_CHECK enum hlm_status hlm_launch_hosts_place(struct hlm_arena *arena, const char *hosts,
                                                      const int32_t *device_of, int32_t num_ranks,
                                                      const char **out, struct hlm_err *err);

/* Runs to the end. HLM_OK: every rank said done and the processes ended well. Otherwise the status
 * of the rank that failed (its report), HLM_ENV (cannot start), HLM_USAGE (hosts) or HLM_FAILED. In
 * every case no process and no file of the run is left. Not for use by two threads at once, nor
 * beside other children: while it runs it takes SIGINT, SIGTERM and SIGHUP away from the process
 * (and gives them back as they were), and it reaps every child that ends. */
HLM_MUST_CHECK enum hlm_status hlm_launch_run(const struct hlm_launch_config *config,
                                              struct hlm_err *err);

#endif
