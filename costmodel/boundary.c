#include "costmodel/boundary.h"

static int32_t tp_of(const struct hlm_strategy *strategy, int32_t pp)
{
    return hlm_strategy_at(strategy, pp).tp;
}

struct hlm_boundary hlm_boundary_of(const struct hlm_strategy *strategy, int32_t rank, int32_t pp,
                                    bool sends)
{
    struct hlm_coords coords = hlm_layout_coords(strategy, rank);
    HLM_ASSERT(coords.pp != pp);
    const int32_t own = tp_of(strategy, coords.pp), other = tp_of(strategy, pp), tp = coords.tp;
    HLM_ASSERT(own % other == 0 || other % own == 0);
    struct hlm_boundary boundary = {.num_peers = 1};
    coords.pp = pp;
    coords.tp = (int32_t)((int64_t)tp * other / own);
    boundary.first_peer = hlm_layout_rank(strategy, coords);
    if (other > own) {
        boundary.in_parts = strategy->sp;
        boundary.num_peers = strategy->sp || sends ? other / own : 1;
    } else if (!strategy->sp && sends) {
        boundary.num_peers = tp % (own / other) == 0 ? 1 : 0;
    }
    return boundary;
}

int32_t hlm_boundary_max_peers(const struct hlm_strategy *strategy, int32_t rank)
{
    const int32_t own = tp_of(strategy, hlm_layout_coords(strategy, rank).pp);
    int32_t most = own;
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        const int32_t tp = tp_of(strategy, pp);
        most = tp > most ? tp : most;
    }
    return most / own;
}
