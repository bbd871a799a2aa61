#include "schedule/order.h"

/* What is known of one rank. */
struct bounds {
    const struct hlm_order_problem *problem;
    int32_t rank, first, last; /* its first and last stage */
    int32_t num_microbatches;  /* that are left: see (5) in order.h */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

static double forward_of(const struct hlm_order_problem *problem, int32_t stage)
{
    return problem->costs->forward_s[stage];
}

static double gradient_of(const struct hlm_order_problem *problem, int32_t stage)
{
    const struct hlm_sim_costs *costs = problem->costs;
    return problem->splits_backward ? costs->input_grad_s[stage] : costs->backward_s[stage];
}

static double weight_of(const struct hlm_order_problem *problem, int32_t stage)
{
    return problem->splits_backward ? problem->costs->weight_grad_s[stage] : 0.0;
}

/* From a stage to its neighbour. */
static double transfer(const struct hlm_order_problem *problem, int32_t from, int32_t to)
{
    const struct hlm_sim_costs *costs = problem->costs;
    if (problem->stage_rank[from] == problem->stage_rank[to]) {
        return 0.0;
    }
    return hlm_sim_at(from < to ? costs->send_forward_s : costs->send_backward_s, from);
}

static double head(const struct hlm_order_problem *problem, int32_t stage)
{
    double seconds = 0;
    for (int32_t u = 0; u < stage; u++) {
        seconds += forward_of(problem, u) + transfer(problem, u, u + 1);
    }
    return seconds;
}

static double turn(const struct hlm_order_problem *problem, int32_t stage)
{
    double seconds = forward_of(problem, stage);
    for (int32_t u = stage + 1; u < problem->num_stages; u++) {
        seconds += transfer(problem, u - 1, u) + forward_of(problem, u) + gradient_of(problem, u) +
                   transfer(problem, u, u - 1);
    }
    return seconds;
}

static double down(const struct hlm_order_problem *problem, int32_t stage)
{
    double way = 0;
    double longest = weight_of(problem, stage);
    for (int32_t u = stage - 1; u >= 0; u--) {
        way += transfer(problem, u + 1, u) + gradient_of(problem, u);
        longest = larger(longest, way + weight_of(problem, u));
    }
    return longest;
}

static double held_for(const struct hlm_order_problem *problem, int32_t stage)
{
    return turn(problem, stage) + gradient_of(problem, stage) + weight_of(problem, stage);
}

/* Seconds of which actions: a sum of these. */
enum { FORWARD = 1, GRADIENT = 2, WEIGHT = 4 };

static double seconds_of(const struct hlm_order_problem *problem, int32_t stage, unsigned actions)
{
    return ((actions & FORWARD) != 0 ? forward_of(problem, stage) : 0.0) +
           ((actions & GRADIENT) != 0 ? gradient_of(problem, stage) : 0.0) +
           ((actions & WEIGHT) != 0 ? weight_of(problem, stage) : 0.0);
}

static double work(const struct bounds *bounds, unsigned actions)
{
    double seconds = 0;
    for (int32_t s = bounds->first; s <= bounds->last; s++) {
        if (bounds->problem->stage_rank[s] == bounds->rank) {
            seconds += bounds->num_microbatches * seconds_of(bounds->problem, s, actions);
        }
    }
    return seconds;
}

/* Stages by seconds per amount, best first, without storage: the best one below `than`. */
static int32_t next_best(const struct bounds *bounds, unsigned actions, int32_t than)
{
    const struct hlm_order_problem *problem = bounds->problem;
    int32_t best = -1;
    double best_ratio = -1;
    const double than_ratio =
        than < 0 ? 0.0 : seconds_of(problem, than, actions) / (double)problem->amounts[than];
    for (int32_t s = bounds->first; s <= bounds->last; s++) {
        const double ratio = seconds_of(problem, s, actions) / (double)problem->amounts[s];
        const bool is_below = than < 0 || ratio < than_ratio || (ratio <= than_ratio && s > than);
        if (problem->stage_rank[s] == bounds->rank && is_below && ratio > best_ratio) {
            best = s;
            best_ratio = ratio;
        }
    }
    return best;
}

static double most(const struct bounds *bounds, unsigned actions)
{
    const struct hlm_order_problem *problem = bounds->problem;
    double room = (double)problem->limits[bounds->rank];
    double seconds = 0;
    for (int32_t s = next_best(bounds, actions, -1); s >= 0 && room > 0;
         s = next_best(bounds, actions, s)) {
        const double fit = room / (double)problem->amounts[s];
        const double number = fit < bounds->num_microbatches ? fit : bounds->num_microbatches;
        seconds += number * seconds_of(problem, s, actions);
        room -= number * (double)problem->amounts[s];
    }
    return seconds;
}

static double amount_of_all(const struct bounds *bounds)
{
    double amount = 0;
    for (int32_t s = bounds->first; s <= bounds->last; s++) {
        if (bounds->problem->stage_rank[s] == bounds->rank) {
            amount += (double)bounds->problem->amounts[s] * bounds->num_microbatches;
        }
    }
    return amount;
}

/* (1) to (3), from head(a) on. */
static double order_within(const struct bounds *bounds)
{
    const struct hlm_order_problem *problem = bounds->problem;
    const int32_t a = bounds->first, z = bounds->last;
    const double all = work(bounds, FORWARD | GRADIENT | WEIGHT);
    const double idle_front =
        larger(0, head(problem, z) + turn(problem, z) - head(problem, a) - most(bounds, FORWARD));
    const bool is_limited = amount_of_all(bounds) > (double)problem->limits[bounds->rank];
    const double behind_gradient = down(problem, a) - most(bounds, WEIGHT);
    const double behind_forward = turn(problem, z) - forward_of(problem, z) +
                                  gradient_of(problem, z) + down(problem, z) -
                                  most(bounds, GRADIENT | WEIGHT);
    const double start = idle_front + all;
    return larger(start + larger(0, behind_gradient), (is_limited ? start : all) + behind_forward);
}

/* (4) */
static double by_occupancy(const struct bounds *bounds)
{
    const struct hlm_order_problem *problem = bounds->problem;
    double held = 0;
    for (int32_t s = bounds->first; s <= bounds->last; s++) {
        if (problem->stage_rank[s] == bounds->rank) {
            held += (double)problem->amounts[s] * held_for(problem, s);
        }
    }
    const double seconds = held * bounds->num_microbatches / (double)problem->limits[bounds->rank];
    return head(problem, bounds->first) + seconds +
           (problem->splits_backward ? 0.0 : down(problem, bounds->first));
}

/* (5) */
static double by_reuse(struct bounds bounds)
{
    const struct hlm_order_problem *problem = bounds.problem;
    const int64_t fit = problem->limits[bounds.rank] / problem->amounts[bounds.first];
    double before_s = head(problem, bounds.first);
    double bound_s = before_s + order_within(&bounds);
    while (fit > 0 && bounds.num_microbatches > fit) {
        bounds.num_microbatches -= (int32_t)fit;
        before_s += held_for(problem, bounds.first);
        bound_s = larger(bound_s, before_s + order_within(&bounds));
    }
    return bound_s;
}

static double bound_of_rank(const struct hlm_order_problem *problem, int32_t rank)
{
    struct bounds bounds = {.problem = problem,
                            .rank = rank,
                            .first = -1,
                            .num_microbatches = problem->num_microbatches};
    for (int32_t s = 0; s < problem->num_stages; s++) {
        if (problem->stage_rank[s] == rank) {
            bounds.first = bounds.first < 0 ? s : bounds.first;
            bounds.last = s;
        }
    }
    const double within_s = bounds.first == bounds.last
                                ? by_reuse(bounds)
                                : head(problem, bounds.first) + order_within(&bounds);
    return larger(within_s, by_occupancy(&bounds));
}

double hlm_order_bound(const struct hlm_order_problem *problem)
{
    const int32_t last = problem->num_stages - 1;
    double bound_s = head(problem, last) + turn(problem, last) + gradient_of(problem, last) +
                     down(problem, last);
    for (int32_t rank = 0; rank < problem->num_ranks; rank++) {
        bound_s = larger(bound_s, bound_of_rank(problem, rank));
    }
    return bound_s;
}
