/* verify_share: what a stage of one strategy column takes, and closed forms, for the verifier. It
 * shares no code with the search: shares are found by trying every choice of recompute.
 */
#ifndef HLM_PLANNER_VERIFY_SHARE_H
#define HLM_PLANNER_VERIFY_SHARE_H

#include "planner/plan.h"

/* One stage with its share of layers: what it takes when it recomputes as little as memory allows.
 */
struct hlm_share {
    bool fits;
    int32_t full, selective;
    double forward_s, backward_s, reduce_s, optimizer_s;
};

struct hlm_verifier {
    struct hlm_arena *arena;
    const struct hlm_pricer *const *pricers; /* [num_stages] */
    const struct hlm_model *model;
    const struct hlm_strategy *strategy;
    int32_t recompute;
    double goal_s;
    int32_t num_layers, num_stages;
    double num_microbatches;
    double *transfer_s, *transfers_s; /* of a boundary; sums in front of a stage [num_stages + 1] */
    double
        *least_s; /* [num_stages][num_layers + 1]: sums of least seconds of the layers in front */
    /* [num_stages + 1][num_layers + 1]: the least that so many stages with so many layers take of a
     * microbatch if none of them alone reaches the goal, and of its forward. */
    double *front_s, *front_forward_s;
    double sync_s;
    bool *both_sides;
    bool one_kind;
    const struct hlm_share *
        *shares; /* [num_stages][num_layers + 1][num_layers + 1]; one kind: begin 0 */
};

/* Fills all from transfer_s on; the members in front are the caller's. */
void hlm_verifier_prepare(struct hlm_verifier *v);

/* The share of layers [begin, end) on the stage. Stages in the middle hold a layer at least. */
const struct hlm_share *hlm_share_get(struct hlm_verifier *v, int32_t stage, int32_t begin,
                                      int32_t end);

/* Whether any partition fits. */
bool hlm_share_something_fits(struct hlm_verifier *v);

/* The least seconds of a microbatch in layers [begin, end) on the stage. */
double hlm_verifier_least_s(const struct hlm_verifier *v, int32_t stage, int32_t begin,
                            int32_t end);

/* The least that stages in front of `stage`, with `begin` layers in all, take: for a round trip of
 * a microbatch (forwards, backwards, transfers both ways), and on its way down. */
double hlm_verifier_front_s(const struct hlm_verifier *v, int32_t stage, int32_t begin);
double hlm_verifier_front_forward_s(const struct hlm_verifier *v, int32_t stage, int32_t begin);

/* The least step of any partition: the whole work once and again for each p microbatches (1f1b) or
 * its mean over the stages (gpipe). */
double hlm_verifier_closed_form_s(const struct hlm_verifier *v);

#endif
