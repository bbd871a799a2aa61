/* measurement: what a run of a plan said. The JSON kind "measurement".
 *
 * It has the form of a prediction: the same named parts of a step, the same actions, the same
 * memory kinds of sizes, so that compare/ joins the two tables on equal keys. Written by the
 * executor, read by `compare`, `calibrate` and `report`.
 *
 * A step is clean when it is no warm-up step and every rank had its core for more than
 * HLM_CLEAN_AVAILABILITY of the time that it was busy: CPU time over wall time of its compute
 * actions, the least over the ranks. A machine that is shared with others gives steps that say more
 * about the others. In virtual time all steps behind the warm-up are clean, whatever the machine
 * did: a step's duration is then the longest path through measured CPU times of actions and
 * messages as the plan has them or as they were measured by themselves, not the wall clock.
 *
 * A run of one rank alone (exec/comm/comm_emulate.h) is a measurement of that rank: its actions,
 * its memory, its step. Peers, their data and all communication were the plan's prediction; losses
 * and norms are those of the rank's own share (0 where it has none).
 */
#ifndef HLM_PLANNER_MEASUREMENT_H
#define HLM_PLANNER_MEASUREMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "planner/plan.h"
#include "schedule/timeline.h"

#define HLM_CLEAN_AVAILABILITY 0.985

struct hlm_measured_step {
    int32_t step;     /* 0, 1, ... warm-up included */
    double wall_s;    /* of the whole step: from the last rank's start to the last rank's end */
    double loss;      /* mean over the tokens of the global batch */
    double grad_norm; /* before the update, over all parameters */
    double availability_frac; /* least over the ranks; 1 where it can't be measured */
    double tokens_per_s, mfu; /* hlm_measurement_rates; 0: unknown */
};

struct hlm_measured_memory {
    int32_t rank, stage; /* world rank; its (first) stage */
    int64_t
        peak_bytes; /* most that the rank held at once, fixed_bytes of the prediction not counted */
    /* What the backend says of the device: most bytes in use behind a step, by whomever, and what
     * it has. 0: it can't say. */
    int64_t device_used_bytes, device_total_bytes;
};

/* One kind of action of one stage of an emulated rank: means over the timeline's step. */
struct hlm_measured_action {
    int32_t stage;
    enum hlm_action_kind kind;
    int32_t num;
    double compute_s; /* of its operators, without communication */
    double comm_s;    /* that it spent in communication, as predicted; 0: none took place */
};

/* What messages from a stage to the next one took by themselves, either way, measured for virtual
 * time. */
struct hlm_measured_message {
    int32_t stage;
    int64_t bytes;
    double seconds;
};

struct hlm_measured_machine {
    const char *host, *cpu_model, *kernel;
    int32_t num_cores;
    const char *backend_library; /* "OpenBLAS 0.3.21 ...", "cuBLAS 12.4" */
};

struct hlm_measurement_meta {
    const char *date, *hlmplan_version;
};

struct hlm_measurement {
    struct hlm_plan_digests digests; /* of the plan that ran */
    const char *backend, *transport; /* "cpu", "mpi" */
    bool virtual_time;
    int32_t num_ranks, num_cores; /* of the plan; cores that the ranks shared */
    int32_t emulated_rank;        /* the only one that ran; -1: all did */
    const struct hlm_measured_step *steps;
    int32_t num_steps;
    int32_t num_warmup_steps, num_clean_steps;
    double step_time_s; /* hlm_measurement_step_time of steps, or the step in virtual time */
    struct hlm_time_node parts; /* name "step"; forward, backward, tensor_parallel, pipeline,
                                   data_parallel, optimizer as in hlm_plan_prediction */
    const struct hlm_measured_memory *memory; /* [num_memory] */
    int32_t num_memory;
    const struct hlm_measured_action *actions; /* [num_actions], of an emulated rank */
    int32_t num_actions;
    const struct hlm_measured_message *messages; /* [num_messages]; none: as the plan has them */
    int32_t num_messages;
    /* One clean step of all ranks that ran (the one nearest to step_time_s), "measured"; or, where
     * actions were measured and the rest of the step was walked, "virtual". */
    struct hlm_timeline timeline;
    struct hlm_measured_machine machine;
    struct hlm_measurement_meta meta;
};
extern const struct hlm_json_table hlm_measurement_table;

/* Whether a step counts: behind the warm-up, and with enough of its cores. */
bool hlm_measurement_is_clean(const struct hlm_measured_step *step, int32_t num_warmup_steps,
                              bool virtual_time);

/* Median wall time of the clean steps (of an even number the mean of the middle two), seconds.
 * Where no step is clean, that of all steps behind the warm-up. *out_num_clean: clean ones. At
 * least one step must stand behind the warm-up. Scratch memory is rewound. */
double hlm_measurement_step_time(struct hlm_arena *arena, const struct hlm_measured_step *steps,
                                 int32_t num_steps, int32_t num_warmup_steps, bool virtual_time,
                                 int32_t *out_num_clean);

/* Tokens of the global batch per second, and model flops over the dense peak of all devices, for a
 * step of the plan that takes step_s > 0. The flops are counted as the plan counts them (causal
 * attention half for decoders). mfu is 0 where the devices have no peak. */
void hlm_measurement_rates(const struct hlm_plan *plan, double step_s, double *out_tokens_per_s,
                           double *out_mfu);

/* Reads a measurement and checks what the table can't: each event's action parses, times ascend,
 * ranks are below num_ranks, num_clean_steps and num_warmup_steps stay below the number of steps,
 * and an emulated rank is the timeline's only one. */
HLM_MUST_CHECK enum hlm_status hlm_measurement_read(struct hlm_arena *arena, const char *path,
                                                    const struct hlm_measurement **out,
                                                    struct hlm_err *err);

/* The same from a text; `name` is how messages call it. */
HLM_MUST_CHECK enum hlm_status hlm_measurement_read_text(struct hlm_arena *arena, const char *name,
                                                         const char *text, size_t length,
                                                         const struct hlm_measurement **out,
                                                         struct hlm_err *err);

/* HLM_INPUT naming the part by which the plan that ran differs from this one. */
HLM_MUST_CHECK enum hlm_status hlm_measurement_check_plan(const struct hlm_measurement *measurement,
                                                          const char *where,
                                                          const struct hlm_plan_digests *digests,
                                                          struct hlm_err *err);

#endif
