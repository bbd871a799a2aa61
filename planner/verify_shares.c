#include "planner/verify_shares.h"

#include <math.h>

#include "costmodel/lowering.h"
#include "planner/verify_column.h"
#include "planner/verify_share_plans.h"

enum { MOST_GROUPS = 4 };
/* Stages placed and microbatches simulated, of one column. */
static const int64_t most_tried = 300000;

struct audit {
    const struct hlm_plan *plan;
    const struct hlm_search_require *require;
    struct hlm_verify_prices *prices;
    struct hlm_arena *arena;
    double goal_s;
    struct hlm_verify_report *report;
    struct hlm_err *err;
    bool is_refuted; /* a plan is faster; err says so */
};

static bool agrees(int64_t required, int64_t any, int64_t value)
{
    return required == any || required == value;
}

static int64_t devices_of(const struct audit *audit, int32_t group)
{
    const struct hlm_device_group *of = &audit->plan->cluster.groups[group];
    return (int64_t)of->num_nodes * of->devices_per_node;
}

/* --- whether whole shares exist --- */

/* least[r]: the least sum of shares with one microbatch at least for every replica that leaves the
 * remainder r by the first dp. Adding any dp as often as it likes reaches them all. */
static bool shares_exist(struct hlm_arena *arena, const struct hlm_replicas *replicas, int32_t num,
                         int64_t total)
{
    const int32_t period = replicas[0].dp;
    int64_t *least = HLM_ARENA_ARRAY(arena, int64_t, period);
    int64_t once = 0;
    for (int32_t i = 0; i < num; i++) {
        once += replicas[i].dp;
    }
    for (int32_t r = 0; r < period; r++) {
        least[r] = INT64_MAX;
    }
    least[once % period] = once;
    for (bool changed = true; changed;) {
        changed = false;
        for (int32_t r = 0; r < period; r++) {
            for (int32_t i = 1; i < num && least[r] < INT64_MAX; i++) {
                const int64_t sum = least[r] + replicas[i].dp;
                if (sum < least[sum % period]) {
                    least[sum % period] = sum;
                    changed = true;
                }
            }
        }
    }
    return least[total % period] <= total;
}

/* --- one column --- */

/* As the replicas see it, with so many microbatches. */
static struct hlm_strategy seen_by(const struct hlm_strategy *column, int32_t index, int64_t m)
{
    struct hlm_strategy seen = hlm_strategy_of_replicas(column, index);
    seen.num_microbatches = m;
    seen.global_batch_size = seen.dp * seen.microbatch_size * m;
    return seen;
}

/* Least seconds of a microbatch in a block, in the modes that are allowed. */
static double least_s(const struct audit *audit, const struct hlm_pricer *pricer,
                      enum hlm_block_kind kind)
{
    const bool layer = kind == HLM_BLOCK_DENSE;
    double least = INFINITY;
    for (int32_t mode = 0; mode < (layer ? HLM_NUM_RECOMPUTES : 1); mode++) {
        const struct hlm_block_cost *cost = &pricer->blocks[kind][mode];
        if (!layer || agrees(audit->require->recompute, -1, mode)) {
            least = fmin(least, cost->forward.seconds + cost->backward.seconds);
        }
    }
    return least;
}

/* Some rank has the pp-th part of the work, and some rank as many layers as the mean, rounded up,
 * for every microbatch. */
static int64_t most_by_work(const struct audit *audit, const struct hlm_pricer *pricer,
                            int64_t most)
{
    const int32_t layers = audit->plan->model.num_layers, pp = pricer->strategy->pp;
    const double layer_s = least_s(audit, pricer, HLM_BLOCK_DENSE);
    const double work_s = layers * layer_s + least_s(audit, pricer, HLM_BLOCK_EMBEDDING) +
                          least_s(audit, pricer, HLM_BLOCK_HEAD);
    const double longest_s = fmax(work_s / pp, (layers + pp - 1) / pp * layer_s);
    const double fit = floor(audit->goal_s / longest_s * (1 + 1e-9));
    return fit < (double)most ? (int64_t)fit : most;
}

/* Whether the replicas by themselves may be below the claim. */
static bool may_be_below(const struct audit *audit, const struct hlm_strategy *column,
                         int32_t index, int64_t m)
{
    struct hlm_arena *arena = hlm_arena_new();
    const struct hlm_strategy seen = seen_by(column, index, m);
    const struct hlm_pricer *const *pricers = NULL;
    struct hlm_err unused;
    double step_s = 0.0;
    enum hlm_verdict verdict = HLM_VERDICT_INFEASIBLE;
    if (hlm_verify_prices_get(audit->prices, arena, &seen, &pricers, &unused) == HLM_OK) {
        verdict =
            hlm_verify_column(&seen, pricers, audit->require->recompute, audit->goal_s, &step_s);
    }
    hlm_arena_free(arena);
    return verdict == HLM_VERDICT_FASTER || verdict == HLM_VERDICT_TOO_MANY;
}

/* The most of [need, most] that may be below, as more microbatches never take less; need - 1: not
 * even so many are. Most columns are out at the first question. */
static int64_t most_below(const struct audit *audit, const struct hlm_strategy *column,
                          int32_t index, int64_t need, int64_t most)
{
    int64_t low = need - 1, high = most + 1;
    for (int64_t at = need; high - low > 1; at = at == need ? most : low + (high - low) / 2) {
        *(may_be_below(audit, column, index, at) ? &low : &high) = at;
    }
    return low;
}

/* Fills by_work [num_replicas]; false: the cost model refuses. */
static bool find_by_work(const struct audit *audit, const struct hlm_strategy *column,
                         int64_t total, int64_t *by_work)
{
    bool priced = true;
    struct hlm_arena *arena = hlm_arena_new();
    for (int32_t i = 0; i < column->num_replicas && priced; i++) {
        const struct hlm_strategy seen = seen_by(column, i, 1);
        const struct hlm_pricer *const *pricers = NULL;
        struct hlm_err unused;
        priced = hlm_verify_prices_get(audit->prices, arena, &seen, &pricers, &unused) == HLM_OK;
        if (priced) {
            const int64_t others = column->dp - column->replicas[i].dp;
            by_work[i] = most_by_work(audit, pricers[0], (total - others) / column->replicas[i].dp);
        }
    }
    hlm_arena_free(arena);
    return priced;
}

static int64_t sum_of(const struct hlm_strategy *column, const int64_t *most)
{
    int64_t sum = 0;
    for (int32_t i = 0; i < column->num_replicas; i++) {
        sum = most[i] == 0 || sum < 0 ? -1 : sum + column->replicas[i].dp * most[i];
    }
    return sum;
}

/* All shares with most[i] at most, from the index on, and all their plans. Returns the least step.
 */
static double try_shares(const struct audit *audit, const struct hlm_strategy *column,
                         struct hlm_replicas *replicas, const int64_t *most, int32_t index,
                         int64_t rest, int64_t *left)
{
    HLM_ASSERT(index < MOST_GROUPS);
    struct hlm_replicas *own = &replicas[index];
    double least = INFINITY;
    if (index + 1 == column->num_replicas) {
        own->num_microbatches = rest / own->dp;
        if (rest % own->dp != 0 || own->num_microbatches < 1 ||
            own->num_microbatches > most[index]) {
            return INFINITY;
        }
        struct hlm_strategy shared = *column;
        shared.replicas = replicas;
        shared.num_microbatches = 0;
        hlm_strategy_complete(&shared);
        return hlm_verify_share_plans(audit->prices, &audit->plan->model, &shared,
                                      audit->require->recompute, audit->goal_s, left);
    }
    for (int64_t m = 1; m <= most[index] && m * own->dp < rest && *left >= 0; m++) {
        own->num_microbatches = m;
        least = fmin(
            least, try_shares(audit, column, replicas, most, index + 1, rest - m * own->dp, left));
    }
    return least;
}

/* A column that the groups one by one do not refute. */
static void audit_plans(struct audit *audit, const struct hlm_strategy *column, int64_t total,
                        const int64_t *most)
{
    struct hlm_replicas replicas[MOST_GROUPS];
    int64_t left = most_tried;
    for (int32_t i = 0; i < column->num_replicas; i++) {
        replicas[i] = column->replicas[i];
    }
    const double least = try_shares(audit, column, replicas, most, 0, total, &left);
    if (least < audit->goal_s) {
        audit->is_refuted = true;
        (void)hlm_fail(audit->err, HLM_NO,
                       "dp=%d tp=%d pp=%d microbatch_size=%lld sp=%d zero=%d schedule=%s, with "
                       "replicas on %d device groups: the certificate says that nothing is below "
                       "%.9g s, but a plan simulates to %.9g s",
                       column->dp, column->tp, column->pp, (long long)column->microbatch_size,
                       column->sp, column->zero, hlm_schedule_texts[column->schedule],
                       column->num_replicas, audit->plan->certificate->lower_bound_s, least);
    }
    *(left < 0          ? &audit->report->num_unchecked
      : isfinite(least) ? &audit->report->num_winner
                        : &audit->report->num_bounded) += 1;
}

static void audit_column(struct audit *audit, const struct hlm_strategy *column, int64_t total,
                         const int64_t *by_work)
{
    int64_t most[MOST_GROUPS];
    for (int32_t i = 0; i < column->num_replicas; i++) {
        most[i] = by_work[i];
    }
    for (int32_t i = 0; i < column->num_replicas && sum_of(column, most) >= total; i++) {
        const int64_t dp = column->replicas[i].dp;
        const int64_t left = total - (sum_of(column, most) - dp * most[i]);
        most[i] = most_below(audit, column, i, left > dp ? (left + dp - 1) / dp : 1, most[i]);
    }
    audit->report->num_columns++;
    if (sum_of(column, most) < total) {
        audit->report->num_bounded++;
    } else if (!audit->is_refuted) {
        audit_plans(audit, column, total, most);
    }
}

/* --- all columns --- */

/* In ZeRO stages 0 and 1, by gpipe and 1f1b. */
static void audit_family(struct audit *audit, struct hlm_strategy family, int64_t total)
{
    int64_t by_work[MOST_GROUPS];
    bool is_priced = false;
    for (int32_t i = 0; i < 4; i++) {
        family.zero = i / 2;
        family.zero_group = 0;
        family.schedule = i % 2 == 0 ? HLM_SCHEDULE_1F1B : HLM_SCHEDULE_GPIPE;
        hlm_strategy_complete(&family);
        const bool runs = !audit->plan->certificate->runnable_only ||
                          hlm_lowering_refusal(&audit->plan->model, &family) == NULL;
        if (!agrees(audit->require->zero, -1, family.zero) || !runs ||
            !agrees(audit->require->schedule, -1, (int64_t)family.schedule) ||
            (family.pp == 1 && family.schedule == HLM_SCHEDULE_GPIPE) ||
            hlm_strategy_check(&family, &audit->plan->model, NULL) != HLM_OK) {
            continue;
        }
        if (!is_priced && !find_by_work(audit, &family, total, by_work)) {
            return;
        }
        is_priced = true;
        audit_column(audit, &family, total, by_work);
    }
}

/* Shares that hlm_strategy_check takes: those of the first replicas by the remainder of the others,
 * one microbatch each where that is left. */
static bool set_shares(struct hlm_replicas *replicas, int32_t num, int64_t left)
{
    if (num == 1) {
        replicas[0].num_microbatches = left / replicas[0].dp;
        return left > 0 && left % replicas[0].dp == 0;
    }
    struct hlm_replicas *last = &replicas[num - 1];
    for (last->num_microbatches = 1; last->num_microbatches * last->dp < left;
         last->num_microbatches++) {
        if (set_shares(replicas, num - 1, left - last->num_microbatches * last->dp)) {
            return true;
        }
    }
    return false;
}

static void audit_sizes(struct audit *audit, struct hlm_strategy family,
                        struct hlm_replicas *replicas)
{
    struct hlm_err unused;
    for (int64_t total = family.dp; total <= family.global_batch_size; total++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(audit->arena);
        family.microbatch_size = family.global_batch_size / total;
        if (family.global_batch_size % total == 0 &&
            agrees(audit->require->microbatch_size, 0, family.microbatch_size) &&
            shares_exist(audit->arena, replicas, family.num_replicas, total) &&
            set_shares(replicas, family.num_replicas, total) &&
            hlm_layout_locate_replicas(&family, &audit->plan->cluster, replicas, &unused) ==
                HLM_OK) {
            for (int32_t sp = 0; sp < (family.tp > 1 ? 2 : 1); sp++) {
                family.sp = sp != 0;
                family.num_microbatches = 0;
                if (agrees(audit->require->sp, -1, sp)) {
                    audit_family(audit, family, total);
                }
            }
        }
        hlm_arena_rewind(audit->arena, mark);
    }
}

/* groups [num], with in_replica devices of a group for each replica. */
static void audit_groups(struct audit *audit, const int32_t *groups, int32_t num,
                         int64_t in_replica)
{
    struct hlm_replicas replicas[MOST_GROUPS];
    struct hlm_strategy family = {.vpp = 1,
                                  .cp = 1,
                                  .ep = 1,
                                  .global_batch_size = audit->plan->strategy.global_batch_size,
                                  .seq_len = audit->plan->strategy.seq_len,
                                  .dtype = audit->plan->strategy.dtype,
                                  .lowering = audit->plan->strategy.lowering,
                                  .replicas = replicas,
                                  .num_replicas = num};
    for (int32_t i = 0; i < num; i++) {
        if (devices_of(audit, groups[i]) % in_replica != 0) {
            return;
        }
        replicas[i] = (struct hlm_replicas){
            .device_group = groups[i], .dp = (int32_t)(devices_of(audit, groups[i]) / in_replica)};
        family.dp += replicas[i].dp;
    }
    for (int64_t pp = 1; pp <= in_replica && pp <= audit->plan->model.num_layers + 2; pp++) {
        family.pp = (int32_t)pp;
        family.tp = (int32_t)(in_replica / pp);
        family.etp = 0;
        if (in_replica % pp == 0 && agrees(audit->require->dp, 0, family.dp) &&
            agrees(audit->require->tp, 0, family.tp) && agrees(audit->require->pp, 0, pp)) {
            audit_sizes(audit, family, replicas);
        }
    }
}

/* All sets of the groups from `next` on with those that are in already. */
static void audit_sets(struct audit *audit, int32_t *groups, int32_t num, int32_t next)
{
    const int32_t all = audit->plan->cluster.num_groups;
    if (next < all) {
        audit_sets(audit, groups, num, next + 1);
        groups[num] = next;
        audit_sets(audit, groups, num + 1, next + 1);
        return;
    }
    const bool counts = num > 1 && (num == all || !audit->plan->certificate->all_groups);
    for (int64_t in_replica = 1; counts && in_replica <= devices_of(audit, groups[0]);
         in_replica++) {
        audit_groups(audit, groups, num, in_replica);
    }
}

enum hlm_status hlm_verify_shares(const struct hlm_plan *plan, struct hlm_verify_prices *prices,
                                  double goal_s, struct hlm_verify_report *report,
                                  struct hlm_err *err)
{
    const struct hlm_search_require *require = &plan->certificate->require;
    struct audit audit = {.plan = plan,
                          .require = require,
                          .prices = prices,
                          .arena = hlm_arena_new(),
                          .goal_s = goal_s,
                          .report = report,
                          .err = err};
    const bool possible = plan->cluster.num_groups <= MOST_GROUPS &&
                          plan->model.moe.num_experts == 0 && require->offload <= 0 &&
                          agrees(require->cp, 0, 1) && agrees(require->vpp, 0, 1) &&
                          agrees(require->ep, 0, 1);
    int32_t groups[MOST_GROUPS];
    if (possible) {
        audit_sets(&audit, groups, 0, 0);
    }
    hlm_arena_free(audit.arena);
    return audit.is_refuted ? HLM_NO : HLM_OK;
}
