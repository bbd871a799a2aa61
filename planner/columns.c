#include "planner/columns.h"

#include <string.h>

#include "planner/columns_places.h"

/* The families under construction. */
struct lister {
    const struct hlm_search_problem *problem;
    struct hlm_arena *arena;
    struct hlm_column_family *families;
    int32_t num_families, capacity;
    int64_t num_devices;
    const struct hlm_column_order *orders; /* of the strategy at hand */
    int32_t num_orders;
    struct hlm_err reason; /* why the last candidate is not legal */
    bool is_near;          /* it is one that would be legal with another schedule, vpp or zero */
};

static bool wanted(int32_t required, int32_t free_value, int32_t value)
{
    return required == free_value || required == value;
}

/* --- members --- */

/* What is done with each legal member: counted, or kept. */
struct members {
    const struct hlm_search_problem *problem;
    struct hlm_strategy *out; /* NULL: only counted */
    int64_t num;
    bool is_mixed;          /* through several device groups */
    struct hlm_err *reason; /* NULL: nobody asks why one is not legal */
};

static bool same_as_another(const struct hlm_strategy *strategy)
{
    return strategy->pp == 1 && strategy->schedule != HLM_SCHEDULE_1F1B;
}

/* Whether the schedule and the executor take it; that the strategy as such is legal is known. */
static bool is_possible(struct members *members, const struct hlm_strategy *strategy)
{
    const struct hlm_schedule_params params = {.kind = strategy->schedule,
                                               .num_ranks = strategy->pp,
                                               .chunks = strategy->vpp,
                                               .num_microbatches =
                                                   (int32_t)strategy->num_microbatches};
    if (hlm_schedule_check_params(&params, members->reason) != HLM_OK) {
        return false;
    }
    const char *refused = members->problem->runnable_only
                              ? hlm_lowering_refusal(members->problem->model, strategy)
                              : NULL;
    if (refused != NULL) {
        (void)hlm_fail(members->reason, HLM_NO, "the executor does not run %s", refused);
    }
    return refused == NULL;
}

static void add_member(struct members *members, const struct hlm_strategy *strategy)
{
    if (members->out != NULL) {
        members->out[members->num] = *strategy;
    }
    members->num++;
}

/* Why vpp can't be as required. */
static void fail_chunks(const struct members *members, const struct hlm_strategy *strategy,
                        const struct hlm_schedule_chunks *chunks)
{
    const int32_t vpp = members->problem->require.vpp;
    const int32_t blocks = members->problem->model->num_layers + 2;
    if (vpp * (int64_t)strategy->pp > blocks) {
        (void)hlm_fail(members->reason, HLM_NO,
                       "pp * vpp = %d * %d stages are more than the %d blocks of %s (layers, "
                       "embedding and head)",
                       strategy->pp, vpp, blocks, members->problem->model->name);
    } else if (members->problem->require.schedule >= 0) {
        (void)hlm_fail(members->reason, HLM_NO, "%s does not have vpp = %d: %d is the %s",
                       hlm_schedule_texts[strategy->schedule], vpp,
                       vpp < chunks->min ? chunks->min : chunks->max,
                       vpp < chunks->min ? "least" : "most");
    }
}

/* All vpp of one schedule. More chunks than a model has blocks are never legal, and fewer are
 * wherever more are, so the rules need to be asked once a chunk. */
static void add_chunks(struct members *members, struct hlm_strategy strategy)
{
    const struct hlm_search_problem *problem = members->problem;
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(strategy.schedule);
    const int32_t blocks = problem->model->num_layers + 2, required = problem->require.vpp;
    if (required > 0 && (required < chunks.min || required > chunks.max ||
                         required * (int64_t)strategy.pp > blocks)) {
        fail_chunks(members, &strategy, &chunks);
        return;
    }
    for (int32_t vpp = chunks.min; vpp <= chunks.max && vpp * (int64_t)strategy.pp <= blocks;
         vpp++) {
        strategy.vpp = vpp;
        if (!wanted(problem->require.vpp, 0, vpp)) {
            continue;
        }
        if (hlm_strategy_check(&strategy, problem->model, members->reason) != HLM_OK) {
            return;
        }
        if (is_possible(members, &strategy)) {
            add_member(members, &strategy);
        }
    }
}

/* What depends on zero is only whether there are replicas, so the members of zero 0 are those of
 * any other; each has to be asked only for what the executor runs. */
static void add_members(struct members *members, const struct hlm_strategy *family)
{
    const struct hlm_search_require *require = &members->problem->require;
    const bool replicated = (int64_t)family->dp * family->cp > 1;
    const int32_t first = require->zero >= 0 ? require->zero : 0;
    const int32_t last = require->zero >= 0 ? require->zero : replicated ? 3 : 0;
    const bool multiply = members->out == NULL && !members->problem->runnable_only;
    if (last > 0 && !replicated) {
        (void)hlm_fail(members->reason, HLM_NO, "zero = %d needs dp * cp > 1", last);
        return;
    }
    if (require->pp == 1 && require->schedule >= 0 && require->schedule != HLM_SCHEDULE_1F1B) {
        (void)hlm_fail(members->reason, HLM_NO,
                       "%s with pp = 1 is left out: the work of 1f1b, with no fewer activations "
                       "held",
                       hlm_schedule_texts[require->schedule]);
        return;
    }
    for (int32_t zero = first; zero <= last; zero++) {
        const int64_t before = members->num;
        for (int32_t schedule = 0; schedule < HLM_NUM_SCHEDULES; schedule++) {
            struct hlm_strategy strategy = *family;
            strategy.zero = zero;
            strategy.zero_group = 0;
            strategy.schedule = (enum hlm_schedule_kind)schedule;
            hlm_strategy_complete(&strategy);
            const bool suits =
                !members->is_mixed || hlm_schedule_chunks(strategy.schedule).max == 1;
            if (wanted(require->schedule, -1, schedule) && suits && !same_as_another(&strategy)) {
                add_chunks(members, strategy);
            }
        }
        if (multiply) {
            members->num = before + (members->num - before) * (last - zero + 1);
            return;
        }
    }
}

/* --- families --- */

static void keep(struct lister *lister, const struct hlm_column_family *family)
{
    if (lister->num_families == lister->capacity) {
        lister->capacity = lister->capacity == 0 ? 256 : 2 * lister->capacity;
        struct hlm_column_family *larger =
            HLM_ARENA_ARRAY(lister->arena, struct hlm_column_family, lister->capacity);
        for (int32_t i = 0; i < lister->num_families; i++) {
            larger[i] = lister->families[i];
        }
        lister->families = larger;
    }
    lister->families[lister->num_families++] = *family;
}

/* Where to say why a strategy is not legal; NULL once there is one that is, as nobody asks then, or
 * one that nearly is, which says more of what is required. */
static struct hlm_err *reason_of(struct lister *lister)
{
    return lister->num_families == 0 && !lister->is_near ? &lister->reason : NULL;
}

static void try_family(struct lister *lister, struct hlm_strategy strategy)
{
    strategy.schedule = HLM_SCHEDULE_1F1B;
    strategy.vpp = 1;
    hlm_strategy_complete(&strategy);
    if (hlm_strategy_check(&strategy, lister->problem->model, reason_of(lister)) != HLM_OK) {
        return;
    }
    struct members members = {.problem = lister->problem,
                              .is_mixed = lister->num_orders > 0 && lister->orders[0].is_mixed,
                              .reason = lister->num_families == 0 ? &lister->reason : NULL};
    lister->is_near = true;
    add_members(&members, &strategy);
    if (members.num > 0) {
        /* What is legal in one order of groups is in all that were kept. */
        keep(lister,
             &(struct hlm_column_family){
                 .strategy = strategy,
                 .num_members = members.num * (lister->num_orders > 0 ? lister->num_orders : 1),
                 .orders = lister->orders,
                 .num_orders = lister->num_orders});
    }
}

/* Why ep can't be as required. */
static void fail_experts(struct hlm_err *reason, const struct hlm_search_problem *problem,
                         int64_t ranks)
{
    const int32_t ep = problem->require.ep, num_experts = problem->model->moe.num_experts;
    if (num_experts == 0) {
        (void)hlm_fail(reason, HLM_NO, "ep = %d needs a model with experts", ep);
    } else if (num_experts % ep != 0) {
        (void)hlm_fail(reason, HLM_NO, "ep = %d does not divide moe.num_experts = %d", ep,
                       num_experts);
    } else {
        (void)hlm_fail(reason, HLM_NO, "ep = %d does not divide dp * cp * tp = %lld", ep,
                       (long long)ranks);
    }
}

static void try_experts(struct lister *lister, struct hlm_strategy strategy)
{
    const int32_t num_experts = lister->problem->model->moe.num_experts;
    const int64_t ranks = (int64_t)strategy.dp * strategy.cp * strategy.tp;
    bool tried = false;
    for (int32_t ep = 1; ep == 1 || ep <= num_experts; ep++) {
        const bool divides = ep == 1 || (num_experts % ep == 0 && ranks % ep == 0);
        if (divides && wanted(lister->problem->require.ep, 0, ep)) {
            strategy.ep = ep;
            try_family(lister, strategy);
            tried = true;
        }
    }
    if (!tried) {
        fail_experts(reason_of(lister), lister->problem, ranks);
    }
}

static void try_sizes(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    const int64_t per_replica = strategy.global_batch_size / strategy.dp;
    if (per_replica * strategy.dp != strategy.global_batch_size) {
        (void)hlm_fail(reason_of(lister), HLM_NO,
                       "dp = %d does not divide global_batch_size = %lld", strategy.dp,
                       (long long)strategy.global_batch_size);
        return;
    }
    if (require->microbatch_size > 0 && per_replica % require->microbatch_size != 0) {
        (void)hlm_fail(reason_of(lister), HLM_NO,
                       "dp * microbatch_size = %d * %lld does not divide global_batch_size = %lld",
                       strategy.dp, (long long)require->microbatch_size,
                       (long long)strategy.global_batch_size);
    }
    for (int64_t size = 1; size <= per_replica; size++) {
        const bool fits = require->microbatch_size == 0 || require->microbatch_size == size;
        if (per_replica % size != 0 || !fits) {
            continue;
        }
        strategy.microbatch_size = size;
        for (int32_t sp = 0; sp <= (strategy.tp > 1 ? 1 : 0); sp++) {
            if (wanted(require->sp, -1, sp)) {
                strategy.sp = sp == 1;
                try_experts(lister, strategy);
            }
        }
    }
}

static void try_context(struct lister *lister, struct hlm_strategy strategy, int64_t rest)
{
    const struct hlm_search_require *require = &lister->problem->require;
    for (int64_t cp = 1; cp <= rest; cp++) {
        const int64_t dp = rest / cp;
        if (rest % cp == 0 && wanted(require->cp, 0, (int32_t)cp) &&
            wanted(require->dp, 0, (int32_t)dp)) {
            strategy.cp = (int32_t)cp;
            strategy.dp = (int32_t)dp;
            try_sizes(lister, strategy);
        }
    }
}

/* --- several device groups --- */

/* The ways through one set of groups, with one tp on each of them. */
struct way_set {
    int32_t tp[HLM_MAX_MIXED_GROUPS]; /* by group; 0: left out */
    int32_t largest_tp, pp;
    struct hlm_column_order *orders;
    int32_t num_orders, room;
};

struct way_sets {
    const struct lister *lister;
    int32_t replicas;
    struct way_set *sets;
    int32_t num_sets, room;
};

static struct way_set *find_set(struct way_sets *ways, const struct way_set *wanted_set)
{
    for (int32_t i = 0; i < ways->num_sets; i++) {
        if (memcmp(ways->sets[i].tp, wanted_set->tp, sizeof(wanted_set->tp)) == 0) {
            return &ways->sets[i];
        }
    }
    if (ways->num_sets == ways->room) {
        ways->room = ways->room == 0 ? 64 : 2 * ways->room;
        struct way_set *larger = HLM_ARENA_ARRAY(ways->lister->arena, struct way_set, ways->room);
        if (ways->num_sets > 0) {
            memcpy(larger, ways->sets, (size_t)ways->num_sets * sizeof(*larger));
        }
        ways->sets = larger;
    }
    ways->sets[ways->num_sets] = *wanted_set;
    return &ways->sets[ways->num_sets++];
}

static bool is_legal_way(const struct lister *lister, const struct hlm_group_run *runs,
                         int32_t num_runs)
{
    const struct hlm_model *model = lister->problem->model;
    if (lister->problem->all_groups && num_runs < lister->problem->cluster->num_groups) {
        return false;
    }
    for (int32_t i = 0; i < num_runs; i++) {
        const struct hlm_device_group *group = &lister->problem->cluster->groups[runs[i].group];
        if (model->num_heads % runs[i].tp != 0 ||
            (num_runs > 1 && runs[i].tp > hlm_device_group_domain(group))) {
            return false;
        }
    }
    return !model->tied_embeddings || runs[0].tp == runs[num_runs - 1].tp;
}

static void add_order(struct way_sets *ways, struct way_set *set, const struct hlm_group_run *runs,
                      int32_t num_runs)
{
    const struct lister *lister = ways->lister;
    if (set->num_orders == set->room) {
        set->room = set->room == 0 ? 2 : 3 * set->room;
        struct hlm_column_order *larger =
            HLM_ARENA_ARRAY(lister->arena, struct hlm_column_order, set->room);
        if (set->num_orders > 0) {
            memcpy(larger, set->orders, (size_t)set->num_orders * sizeof(*larger));
        }
        set->orders = larger;
    }
    set->orders[set->num_orders++] = (struct hlm_column_order){
        .places = hlm_columns_places(lister->arena, lister->problem->cluster, ways->replicas, runs,
                                     num_runs),
        .is_mixed = num_runs > 1};
}

static void take_way(void *context, const struct hlm_group_run *runs, int32_t num_runs)
{
    struct way_sets *ways = context;
    struct way_set set = {.pp = 0};
    for (int32_t i = 0; i < num_runs; i++) {
        set.tp[runs[i].group] = runs[i].tp;
        set.pp += runs[i].pp;
        set.largest_tp = runs[i].tp > set.largest_tp ? runs[i].tp : set.largest_tp;
    }
    const struct hlm_search_require *require = &ways->lister->problem->require;
    if (is_legal_way(ways->lister, runs, num_runs) && wanted(require->tp, 0, set.largest_tp) &&
        wanted(require->pp, 0, set.pp)) {
        add_order(ways, find_set(ways, &set), runs, num_runs);
    }
}

static void try_ways(struct lister *lister, struct hlm_strategy strategy)
{
    const int32_t max_pp = lister->problem->model->num_layers + 2;
    for (int32_t replicas = 1; replicas <= lister->num_devices; replicas++) {
        struct way_sets ways = {.lister = lister, .replicas = replicas};
        hlm_columns_each_way(lister->problem->cluster, replicas, max_pp, take_way, &ways);
        for (int32_t i = 0; i < ways.num_sets; i++) {
            const struct way_set *set = &ways.sets[i];
            strategy.tp = set->largest_tp;
            strategy.pp = set->pp;
            strategy.places = set->orders[0].places;
            lister->orders = set->orders;
            lister->num_orders = set->num_orders;
            try_context(lister, strategy, replicas);
        }
    }
}

static void try_degrees(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    for (int64_t tp = 1; tp <= lister->num_devices; tp++) {
        if (lister->num_devices % tp != 0 || !wanted(require->tp, 0, (int32_t)tp)) {
            continue;
        }
        const int64_t rest = lister->num_devices / tp;
        for (int64_t pp = 1; pp <= rest; pp++) {
            if (rest % pp == 0 && wanted(require->pp, 0, (int32_t)pp)) {
                strategy.tp = (int32_t)tp;
                strategy.pp = (int32_t)pp;
                try_context(lister, strategy, rest / pp);
            }
        }
    }
}

enum hlm_status hlm_columns_families(struct hlm_arena *arena,
                                     const struct hlm_search_problem *problem,
                                     const struct hlm_column_family **out, int32_t *out_num,
                                     struct hlm_err *err)
{
    struct lister lister = {.problem = problem,
                            .arena = arena,
                            .num_devices = hlm_cluster_num_devices(problem->cluster)};
    (void)hlm_fail(&lister.reason, HLM_NO,
                   "no degrees dp * tp * pp * cp = %lld devices agree with what is required",
                   (long long)lister.num_devices);
    const struct hlm_strategy given = {.global_batch_size = problem->global_batch_size,
                                       .seq_len = problem->seq_len,
                                       .dtype = problem->dtype,
                                       .lowering = problem->lowering,
                                       .offload = hlm_columns_offload(&problem->require)};
    if (problem->cluster->num_groups > HLM_MAX_MIXED_GROUPS) {
        return hlm_fail(err, HLM_NO,
                        "planning over %d device groups at once is not supported: at most %d",
                        problem->cluster->num_groups, HLM_MAX_MIXED_GROUPS);
    }
    if (problem->cluster->num_groups > 1) {
        try_ways(&lister, given);
    } else {
        try_degrees(&lister, given);
    }
    if (lister.num_families == 0) {
        return hlm_fail(err, HLM_NO, "no strategy is legal for %s on %lld devices: %s",
                        problem->model->name, (long long)lister.num_devices, lister.reason.text);
    }
    *out = lister.families;
    *out_num = lister.num_families;
    return HLM_OK;
}

static void fill_members(const struct hlm_search_problem *problem,
                         const struct hlm_column_family *family, struct hlm_strategy *out)
{
    struct members members = {.problem = problem, .out = out};
    struct hlm_strategy strategy = family->strategy;
    for (int32_t i = 0; i < (family->num_orders > 0 ? family->num_orders : 1); i++) {
        if (family->num_orders > 0) {
            strategy.places = family->orders[i].places;
            members.is_mixed = family->orders[i].is_mixed;
        }
        add_members(&members, &strategy);
    }
    HLM_ASSERT(members.num == family->num_members);
}

const struct hlm_strategy *hlm_columns_members(struct hlm_arena *arena,
                                               const struct hlm_search_problem *problem,
                                               const struct hlm_column_family *family)
{
    struct hlm_strategy *members = HLM_ARENA_ARRAY(arena, struct hlm_strategy, family->num_members);
    fill_members(problem, family, members);
    return members;
}

enum hlm_status hlm_columns_list(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                                 const struct hlm_strategy **out, int32_t *out_num,
                                 struct hlm_err *err)
{
    const struct hlm_column_family *families = NULL;
    int32_t num_families = 0;
    int64_t num = 0;
    HLM_TRY(hlm_columns_families(arena, problem, &families, &num_families, err));
    for (int32_t i = 0; i < num_families; i++) {
        num += families[i].num_members;
    }
    struct hlm_strategy *strategies = HLM_ARENA_ARRAY(arena, struct hlm_strategy, num);
    for (int64_t i = 0, f = 0; f < num_families; i += families[f++].num_members) {
        fill_members(problem, &families[f], &strategies[i]);
    }
    *out = strategies;
    *out_num = (int32_t)num;
    return HLM_OK;
}
