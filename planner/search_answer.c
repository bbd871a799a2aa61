#include <math.h>

#include "planner/master_glpk.h"
#include "planner/search_internal.h"

enum { MAX_MASTER_NODES = 2000, MAX_MASTER_COLUMNS = 32 };
/* Columns take part in the master ILP when their bound is within this of the least ILP objective:
 * some that lost narrowly too, so that its choice is one. */
static const double master_slack_frac = 0.005;

double hlm_search_best_step_s(const struct hlm_search_state *search)
{
    const double planned_s =
        search->num_planned > 0 ? search->planned[0]->best_step_s : (double)INFINITY;
    return fmin(planned_s, search->shares.step_s);
}

/* --- the master ILP --- */

/* Puts it behind those with a smaller threshold bound and the first; the last of a full list drops
 * out. */
static void insert_survivor(struct hlm_search_column **survivors, int32_t *num,
                            struct hlm_search_column *expanded)
{
    int32_t at = *num < MAX_MASTER_COLUMNS ? (*num)++ : MAX_MASTER_COLUMNS;
    for (; at > 1 && survivors[at - 1]->threshold_s > expanded->threshold_s; at--) {
        if (at < MAX_MASTER_COLUMNS) {
            survivors[at] = survivors[at - 1];
        }
    }
    if (at < MAX_MASTER_COLUMNS) {
        survivors[at] = expanded;
    }
}

/* Columns that survive the bounds: that of the least ILP, then those of the least threshold bounds.
 */
static int32_t find_survivors(const struct hlm_search_state *search,
                              struct hlm_search_column *least, double cutoff_s,
                              struct hlm_search_column *survivors[MAX_MASTER_COLUMNS])
{
    int32_t num = 1;
    survivors[0] = least;
    for (int32_t i = 0; i < search->heap_size; i++) {
        struct hlm_search_column *expanded = search->heap[i].expanded;
        if (search->heap[i].level >= HLM_LEVEL_THRESHOLD && expanded != least &&
            expanded->threshold_s <= cutoff_s) {
            insert_survivor(survivors, &num, expanded);
        }
    }
    return num;
}

static enum hlm_proof proof_of(enum hlm_ilp_outcome outcome)
{
    static const enum hlm_proof proofs[] = {
        [HLM_ILP_PROVED] = HLM_PROOF_OPTIMAL,
        [HLM_ILP_NO_BETTER] = HLM_PROOF_INFEASIBLE,
        [HLM_ILP_INCUMBENT] = HLM_PROOF_FEASIBLE,
        [HLM_ILP_UNKNOWN] = HLM_PROOF_UNKNOWN,
    };
    return proofs[outcome];
}

static enum hlm_status solve_master(struct hlm_search_state *search, struct hlm_err *err)
{
    struct hlm_search_column *least = hlm_search_least_ilp(search);
    if (least == NULL) { /* no column's ILP has a solution that was found */
        search->certificate.master.status = HLM_PROOF_UNKNOWN;
        return HLM_OK;
    }
    const double cutoff_s = least->ilp_s * (1 + master_slack_frac);
    struct hlm_search_column *survivors[MAX_MASTER_COLUMNS] = {NULL};
    const int32_t num_survivors = find_survivors(search, least, cutoff_s, survivors);
    struct hlm_master_column columns[MAX_MASTER_COLUMNS];
    struct hlm_bound_windows windows[MAX_MASTER_COLUMNS];
    struct hlm_rank_caps caps[MAX_MASTER_COLUMNS];
    int32_t num_columns = 0, most_stages = 1;
    for (int32_t i = 0; i < num_survivors; i++) {
        struct hlm_search_column *column = survivors[i];
        const bool narrowed =
            column->column.is_ranked
                ? hlm_rank_narrow(search->kept, column->ranks, cutoff_s, &caps[num_columns])
                : hlm_bound_narrow(search->kept, column->set, cutoff_s, &windows[num_columns]);
        if (narrowed) {
            columns[num_columns] = (struct hlm_master_column){.set = column->set,
                                                              .windows = &windows[num_columns],
                                                              .ranks = column->ranks,
                                                              .caps = &caps[num_columns]};
            num_columns++;
            const int32_t n = hlm_column_num_stages(&column->column);
            most_stages = n > most_stages ? n : most_stages;
        }
    }
    int32_t *ends = HLM_ARENA_ARRAY(search->kept, int32_t, most_stages);
    const struct hlm_master master = hlm_master_glpk(search->scratch, columns, num_columns,
                                                     least->ilp_s / 1000.0, MAX_MASTER_NODES, ends);
    search->certificate.num_ilps++;
    search->certificate.num_nodes += master.num_nodes;
    search->certificate.master = (struct hlm_plan_master){.status = proof_of(master.outcome),
                                                          .objective_s = master.objective_s,
                                                          .num_columns = master.num_columns};
    if (master.outcome == HLM_ILP_PROVED && search->is_least_proved &&
        fabs(master.objective_s - least->ilp_s) > 1e-6 * least->ilp_s) {
        return hlm_fail(err, HLM_FAILED,
                        "the master ILP finds %.9g s, the search %.9g s: one of them is wrong",
                        master.objective_s, least->ilp_s);
    }
    return HLM_OK;
}

/* --- the answer --- */

static void fill_certificate(struct hlm_search_state *search, int64_t num_solved)
{
    struct hlm_plan_certificate *certificate = &search->certificate;
    const double step_s = hlm_search_best_step_s(search);
    const double open_s = search->heap_size > 0 ? search->heap[0].bound_s : step_s;
    certificate->lower_bound_s = fmin(fmin(open_s, search->shares.bound_s), step_s);
    certificate->num_columns += search->shares.num_columns;
    certificate->num_infeasible += search->shares.num_infeasible;
    certificate->gap_frac = (step_s - certificate->lower_bound_s) / step_s;
    certificate->max_gap_frac = search->problem->max_gap_frac;
    certificate->num_pruned_by_bound =
        certificate->num_columns - certificate->num_infeasible - num_solved;
}

/* Plans of the answer, best first: those of columns, and the one of replicas with shares. */
struct ranked_plan {
    const struct hlm_strategy *strategy;
    const struct hlm_plan_stage *stages;
    int32_t num_stages;
    double step_s;
};

static struct ranked_plan ranked_plan(const struct hlm_search_state *search, int32_t index)
{
    const struct hlm_search_shares *shares = &search->shares;
    int32_t before = 0; /* columns that are no slower than the shares */
    while (before < search->num_planned &&
           !(shares->step_s < search->planned[before]->best_step_s * (1 - 1e-9))) {
        before++;
    }
    if (isfinite(shares->step_s) && index == before) {
        return (struct ranked_plan){&shares->strategy, shares->stages, shares->strategy.pp,
                                    shares->step_s};
    }
    const bool behind = isfinite(shares->step_s) && index > before;
    const struct hlm_search_column *expanded = search->planned[index - (behind ? 1 : 0)];
    return (struct ranked_plan){&expanded->column.strategy, expanded->stages,
                                hlm_column_num_stages(&expanded->column), expanded->best_step_s};
}

/* Priced from its operators. */
static enum hlm_status price_ranked(struct hlm_arena *arena, const struct hlm_search_state *search,
                                    const struct ranked_plan *ranked, const struct hlm_plan **out,
                                    struct hlm_err *err)
{
    HLM_TRY(hlm_plan_price(arena, search->problem->model, search->problem->cluster,
                           ranked->strategy, ranked->stages, ranked->num_stages, out, NULL, err));
    HLM_ASSERT(fabs((*out)->prediction.step_time_s - ranked->step_s) <= 1e-9 * ranked->step_s);
    return HLM_OK;
}

/* Adds them to the plan: the best of the other columns, but for those that the hosts' memory, which
 * the search does not look at (search.h), does not hold. */
static void add_runners_up(struct hlm_arena *arena, const struct hlm_search_state *search,
                           struct hlm_plan *plan)
{
    const int32_t others = search->num_planned - (isfinite(search->shares.step_s) ? 0 : 1);
    const int32_t top_k = search->problem->top_k;
    struct hlm_plan_runner_up *runners =
        HLM_ARENA_ARRAY(arena, struct hlm_plan_runner_up, others < top_k ? others : top_k);
    plan->num_runners_up = 0;
    for (int32_t i = 0; i < others && plan->num_runners_up < top_k; i++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(search->scratch);
        const struct ranked_plan ranked = ranked_plan(search, i + 1);
        const struct hlm_plan *priced = NULL;
        struct hlm_err unused;
        if (price_ranked(search->scratch, search, &ranked, &priced, &unused) == HLM_OK) {
            runners[plan->num_runners_up++] = hlm_plan_as_runner_up(arena, priced, plan);
        } else {
            HLM_ASSERT(ranked.strategy->offload != HLM_OFFLOAD_NONE);
        }
        hlm_arena_rewind(search->scratch, mark);
    }
    plan->runners_up = runners;
}

static int32_t count_solved(const struct hlm_search_state *search)
{
    int32_t num = 0;
    for (int32_t i = 0; i < search->heap_size; i++) {
        num += search->heap[i].level >= HLM_LEVEL_SOLVED ? 1 : 0;
    }
    return num;
}

enum hlm_status hlm_search_answer(struct hlm_arena *arena, struct hlm_search_state *search,
                                  const struct hlm_plan **out, struct hlm_err *err)
{
    const struct ranked_plan best = ranked_plan(search, 0);
    const struct hlm_plan *priced = NULL;
    fill_certificate(search, count_solved(search) + search->shares.num_open);
    const enum hlm_status status = price_ranked(arena, search, &best, &priced, err);
    if (status != HLM_OK) {
        HLM_ASSERT(best.strategy->offload != HLM_OFFLOAD_NONE);
        hlm_err_prefix(err, "the fastest plan");
        return status;
    }
    HLM_TRY(solve_master(search, err));
    struct hlm_plan *plan = HLM_ARENA_NEW(arena, struct hlm_plan);
    *plan = *priced;
    plan->certificate = hlm_arena_memdup(arena, &search->certificate, sizeof(search->certificate));
    add_runners_up(arena, search, plan);
    *out = plan;
    return HLM_OK;
}
