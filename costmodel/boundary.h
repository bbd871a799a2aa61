/* boundary: which ranks of two neighbouring stages exchange what.
 *
 * A rank exchanges with those of the other pipeline rank that have its dp and cp and its part of
 * the tensor parallel group: with one tp on both sides, one rank each. Where tp differs (strategy's
 * places; one divides the other), with tp = a on the larger side and b on the smaller, each rank of
 * the smaller has a / b of the larger:
 *   sp     the rows of the activation are cut into tp parts (one, where tp = 1), in order of tp:
 *          those of a rank of the smaller side are those of its a / b ranks, one behind the other.
 *          Nothing is exchanged twice, nothing is gathered.
 *   no sp  every rank has all rows. To the larger side a rank sends them to each of its a / b; to
 *          the smaller the first of a / b sends them, the others nothing.
 * Gradients go back over the same boundary by the same rules. What one rank of the busier side
 * moves is what hlm_stage_send_s (costmodel/stage_cost.h) prices; without sp towards the smaller
 * side it is less, since the price is one for both directions.
 */
#ifndef HLM_COSTMODEL_BOUNDARY_H
#define HLM_COSTMODEL_BOUNDARY_H

#include "costmodel/layout.h"

/* Ranks first_peer, first_peer + 1, ...; in_parts: the i-th of them has the i-th of num_peers equal
 * parts of what this rank holds, else all of it. */
struct hlm_boundary {
    int32_t first_peer, num_peers; /* num_peers 0: no message */
    bool in_parts;
};

/* What `rank` sends to, or receives from, the ranks of pipeline rank `pp`, another than its own. */
struct hlm_boundary hlm_boundary_of(const struct hlm_strategy *strategy, int32_t rank, int32_t pp,
                                    bool sends);

/* The most ranks that `rank` exchanges one message with. */
int32_t hlm_boundary_max_peers(const struct hlm_strategy *strategy, int32_t rank);

#endif
