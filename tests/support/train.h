/* train: runs a plan with all its ranks as threads of the test. */
#ifndef HLM_TESTS_SUPPORT_TRAIN_H
#define HLM_TESTS_SUPPORT_TRAIN_H

#include "exec/backend.h"
#include "exec/runner/runner.h"
#include "tests/support/golden.h"

enum { TRAIN_MAX_STEPS = 8 };

struct train_result {
    double losses[TRAIN_MAX_STEPS], grad_norms[TRAIN_MAX_STEPS];
    /* Reduced gradients of step 0 and the change of the parameters over all steps, per golden
     * parameter, assembled from the shards of all ranks; NULL unless a golden is given. */
    double *const *grads;
    const double *update_norms;
};

typedef enum hlm_status train_backend_fn(struct hlm_backend **out, struct hlm_err *err);

/* Trains for num_steps steps on backends made by new_backend, the ranks as threads; NULL: on late
 * backends that share a device, over a stream-ordered transport (exec/comm/comm_queue.h). Any
 * failure fails the test with its message. golden may be NULL; needs host_memory and fp32 to
 * assemble gradients. */
struct train_result train_run(struct hlm_arena *arena, const struct hlm_plan *plan, uint64_t seed,
                              int32_t num_steps, train_backend_fn *new_backend,
                              const struct golden *golden);

/* The same for mixtures of experts. */
struct train_experts {
    enum hlm_routing routing;
    const char *cleared; /* parameters with this in their name start as zeros; NULL: none */
};
struct train_result train_run_experts(struct hlm_arena *arena, const struct hlm_plan *plan,
                                      uint64_t seed, int32_t num_steps,
                                      train_backend_fn *new_backend, const struct golden *golden,
                                      const struct train_experts *experts);

#endif
