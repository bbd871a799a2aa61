/* rank_options: the command line of hlmplan-rank. */
#ifndef HLM_EXEC_RANK_OPTIONS_H
#define HLM_EXEC_RANK_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/opt.h"

struct hlm_rank_options {
    const char *plan, *data, *output, *profile, *products; /* paths, NULL: not given */
    const char *join; /* directories of profiles, "A,B,...", or NULL */
    /* Indices into the texts of enum hlm_backend_choice, hlm_transport and hlm_emulate_delay; of
     * routing from HLM_ROUTING_TOPK on; graphs 0: where the backend has them, 1: never; messages
     * 0: as predicted, 1: measured. */
    int backend, transport, emulate_delay, routing, graphs, messages;
    int64_t steps, warmup, seed, ranks, repeat_operators;
    int64_t emulate_rank; /* -1: all ranks run */
    bool virtual_time, quick, count_gpus;
    double timeout_s;
};

extern const struct hlm_command hlm_rank_command;

/* What the table can't say: options that need or exclude each other. HLM_USAGE. */
HLM_MUST_CHECK enum hlm_status hlm_rank_options_check(const struct hlm_rank_options *options,
                                                      struct hlm_err *err);

#endif
