/* sweep: the losses of many layouts against those of one rank. */
#ifndef HLM_TESTS_SUPPORT_SWEEP_H
#define HLM_TESTS_SUPPORT_SWEEP_H

#include "tests/support/train.h"

struct sweep {
    struct hlm_arena *arena;
    const char *name;
    struct golden golden;          /* its model and sizes; no numbers are used */
    struct train_result reference; /* of one rank */
    int32_t num_steps;             /* of every layout */
    int32_t num_run;               /* with those that the build passes over (share.h) */
};

/* The model of a golden file; num_layers, global_batch_size 0: its own. Trains the reference. */
struct sweep sweep_new(const char *name, int32_t num_layers, int64_t global_batch_size);
/* The same with sequences of another length. */
struct sweep sweep_new_of_length(const char *name, int32_t num_layers, int64_t global_batch_size,
                                 int64_t seq_len);
void sweep_free(struct sweep *sweep);

/* The steps of a layout: fails the test where a loss is not that of one rank to 1e-5. Passes over
 * what is not legal for the model. */
void sweep_check(struct sweep *sweep, const struct golden_layout *layout,
                 train_backend_fn *backend);

/* Operators that run late, on queues, in memory that the host can't reach. */
enum hlm_status sweep_late_backend(struct hlm_backend **out, struct hlm_err *err);

#endif
