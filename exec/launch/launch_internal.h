/* launch_internal: the state of one launch, shared by launch.c (connections, the loop) and
 * launch_judge.c (whether something is wrong, and which sentence says it). */
#ifndef HLM_EXEC_LAUNCH_INTERNAL_H
#define HLM_EXEC_LAUNCH_INTERNAL_H

#include "base/arena.h"
#include "exec/launch/launch.h"
#include "exec/launch/launch_child.h"
#include "exec/launch/launch_control.h"
#include "exec/launch/launch_peer.h"

enum { HLM_LAUNCH_STRANGERS = 64 };

enum hlm_launch_failure_kind {
    HLM_LAUNCH_NO_FAILURE,
    HLM_LAUNCH_REPORT, /* a rank's own words */
    HLM_LAUNCH_GONE,   /* a connection ended without any */
    HLM_LAUNCH_OTHER
};

/* What the run failed of; an earlier cause replaces it. */
struct hlm_launch_failure {
    enum hlm_launch_failure_kind kind;
    int64_t time_ns; /* CLOCK_REALTIME, comparable between ranks */
    double noticed_s;
    int32_t rank; /* GONE */
    struct hlm_err err;
};

struct hlm_supervisor {
    const struct hlm_launch_config *config;
    struct hlm_arena *arena;
    double watchdog_s, silence_s, start_limit_s;
    struct hlm_control control;
    struct hlm_child child;
    struct hlm_peer *ranks;     /* [num_ranks] */
    struct hlm_peer *strangers; /* [HLM_LAUNCH_STRANGERS]: connections before their hello */
    int signals;
    double start_s, now_s, done_s; /* CLOCK_MONOTONIC; done_s: the last rank's "done", 0 before */
    struct hlm_launch_failure failure;
};

int64_t hlm_launch_real_ns(void);

/* Whether a cause of this kind and time would replace the one that is known, if any: the earliest
 * wins, and in the same moment what a rank says of itself. */
bool hlm_launch_is_first(const struct hlm_supervisor *s, enum hlm_launch_failure_kind kind,
                         int64_t time_ns);
/* Notes a cause, if it is the first. */
void hlm_launch_note(struct hlm_supervisor *s, enum hlm_launch_failure_kind kind, int64_t time_ns,
                     enum hlm_status status, const char *format, ...) HLM_PRINTF(5, 6);

/* Looks at the child, at missing ranks, silence and lack of progress; notes what is wrong. */
void hlm_launch_check(struct hlm_supervisor *s);
bool hlm_launch_all_done(const struct hlm_supervisor *s);

/* Words the failure of a rank that has gone, once it is known how it and the child ended. */
void hlm_launch_explain_gone(struct hlm_supervisor *s);

#endif
