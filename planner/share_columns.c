#include "planner/share_columns.h"

#include "costmodel/layout.h"
#include "costmodel/lowering.h"

struct lister {
    const struct hlm_search_problem *problem;
    struct hlm_arena *arena;
    struct hlm_share_family *families;
    int32_t num_families, room;
};

static bool wanted(int64_t required, int64_t free_value, int64_t value)
{
    return required == free_value || required == value;
}

/* Shares of the replicas from index on that sum to `left`: in all but the last, numbers up to the
 * last one's dp are enough, as its residues then repeat. */
static bool fill_from(struct hlm_replicas *replicas, int32_t num, int32_t index, int64_t left)
{
    struct hlm_replicas *own = &replicas[index];
    if (index + 1 == num) {
        own->num_microbatches = left / own->dp;
        return left > 0 && left % own->dp == 0;
    }
    const int32_t most = replicas[num - 1].dp;
    for (int64_t m = 1; m <= most && m * own->dp < left; m++) {
        own->num_microbatches = m;
        if (fill_from(replicas, num, index + 1, left - m * own->dp)) {
            return true;
        }
    }
    return false;
}

static int64_t common_divisor(const struct hlm_replicas *replicas, int32_t num)
{
    int64_t divisor = replicas[0].dp;
    for (int32_t i = 1; i < num; i++) {
        int64_t a = replicas[i].dp;
        while (a != 0) {
            const int64_t rest = divisor % a;
            divisor = a;
            a = rest;
        }
    }
    return divisor;
}

int32_t hlm_share_members(const struct hlm_search_problem *problem,
                          const struct hlm_share_family *family,
                          struct hlm_strategy out[HLM_MAX_SHARE_MEMBERS])
{
    static const enum hlm_schedule_kind schedules[] = {HLM_SCHEDULE_GPIPE, HLM_SCHEDULE_1F1B};
    const struct hlm_search_require *require = &problem->require;
    int32_t num = 0;
    for (int32_t zero = 0; zero <= 1; zero++) {
        for (int32_t i = family->strategy.pp == 1 ? 1 : 0; i < 2; i++) {
            struct hlm_strategy strategy = family->strategy;
            strategy.zero = zero;
            strategy.zero_group = 0;
            strategy.schedule = schedules[i];
            hlm_strategy_complete(&strategy);
            const bool runs =
                !problem->runnable_only || hlm_lowering_refusal(problem->model, &strategy) == NULL;
            if (wanted(require->zero, -1, zero) && runs &&
                wanted(require->schedule, -1, (int64_t)schedules[i]) &&
                hlm_strategy_check(&strategy, problem->model, NULL) == HLM_OK) {
                out[num++] = strategy;
            }
        }
    }
    return num;
}

static void try_family(struct lister *lister, struct hlm_strategy strategy, int64_t total)
{
    struct hlm_replicas *replicas =
        hlm_arena_memdup(lister->arena, strategy.replicas,
                         (size_t)strategy.num_replicas * sizeof(*strategy.replicas));
    if (total % common_divisor(replicas, strategy.num_replicas) != 0 ||
        !fill_from(replicas, strategy.num_replicas, 0, total)) {
        return;
    }
    strategy.replicas = replicas;
    hlm_strategy_complete(&strategy);
    struct hlm_share_family family = {.strategy = strategy, .total = total};
    struct hlm_strategy members[HLM_MAX_SHARE_MEMBERS];
    struct hlm_err unused;
    family.num_members = hlm_share_members(lister->problem, &family, members);
    if (family.num_members == 0 || hlm_layout_locate_replicas(&strategy, lister->problem->cluster,
                                                              replicas, &unused) != HLM_OK) {
        return;
    }
    if (lister->num_families == lister->room) {
        lister->room = lister->room == 0 ? 256 : 2 * lister->room;
        struct hlm_share_family *larger =
            HLM_ARENA_ARRAY(lister->arena, struct hlm_share_family, lister->room);
        for (int32_t i = 0; i < lister->num_families; i++) {
            larger[i] = lister->families[i];
        }
        lister->families = larger;
    }
    lister->families[lister->num_families++] = family;
}

static void try_sizes(struct lister *lister, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    for (int64_t size = 1; size * strategy.dp <= strategy.global_batch_size; size++) {
        if (strategy.global_batch_size % size != 0 || !wanted(require->microbatch_size, 0, size)) {
            continue;
        }
        strategy.microbatch_size = size;
        for (int32_t sp = 0; sp <= (strategy.tp > 1 ? 1 : 0); sp++) {
            strategy.sp = sp == 1;
            if (wanted(require->sp, -1, sp)) {
                try_family(lister, strategy, strategy.global_batch_size / size);
            }
        }
    }
}

/* Whole replicas on all devices of each group; false: they do not divide. */
static bool set_replicas(const struct hlm_cluster *cluster, uint32_t groups, int64_t in_replica,
                         struct hlm_strategy *strategy, struct hlm_replicas *replicas)
{
    strategy->dp = 0;
    strategy->num_replicas = 0;
    for (int32_t g = 0; g < cluster->num_groups; g++) {
        const struct hlm_device_group *group = &cluster->groups[g];
        const int64_t devices = (int64_t)group->num_nodes * group->devices_per_node;
        if ((groups >> g & 1U) == 0) {
            continue;
        }
        if (devices % in_replica != 0) {
            return false;
        }
        const int32_t dp = (int32_t)(devices / in_replica);
        replicas[strategy->num_replicas++] = (struct hlm_replicas){.device_group = g, .dp = dp};
        strategy->dp += dp;
    }
    strategy->replicas = replicas;
    return true;
}

static int32_t count_bits(uint32_t bits)
{
    int32_t count = 0;
    for (; bits != 0; bits &= bits - 1) {
        count++;
    }
    return count;
}

static void try_groups(struct lister *lister, uint32_t groups, struct hlm_strategy strategy)
{
    const struct hlm_search_require *require = &lister->problem->require;
    const int64_t devices = hlm_cluster_num_devices(lister->problem->cluster);
    const int32_t most_pp = lister->problem->model->num_layers + 2;
    struct hlm_replicas replicas[HLM_MAX_MIXED_GROUPS];
    for (int64_t tp = 1; tp <= devices; tp++) {
        for (int64_t pp = 1; pp <= most_pp && tp * pp <= devices; pp++) {
            if (wanted(require->tp, 0, tp) && wanted(require->pp, 0, pp) &&
                set_replicas(lister->problem->cluster, groups, tp * pp, &strategy, replicas) &&
                wanted(require->dp, 0, strategy.dp)) {
                strategy.tp = (int32_t)tp;
                strategy.pp = (int32_t)pp;
                try_sizes(lister, strategy);
            }
        }
    }
}

void hlm_share_families(struct hlm_arena *arena, const struct hlm_search_problem *problem,
                        const struct hlm_share_family **out, int32_t *out_num)
{
    struct lister lister = {.problem = problem, .arena = arena};
    const struct hlm_search_require *require = &problem->require;
    const int32_t num_groups = problem->cluster->num_groups;
    const struct hlm_strategy given = {.schedule = HLM_SCHEDULE_1F1B,
                                       .vpp = 1,
                                       .cp = 1,
                                       .ep = 1,
                                       .global_batch_size = problem->global_batch_size,
                                       .seq_len = problem->seq_len,
                                       .dtype = problem->dtype,
                                       .lowering = problem->lowering};
    const bool possible = num_groups > 1 && num_groups <= HLM_MAX_MIXED_GROUPS &&
                          problem->model->moe.num_experts == 0 &&
                          (require->offload < 0 || require->offload == HLM_OFFLOAD_NONE) &&
                          wanted(require->cp, 0, 1) && wanted(require->vpp, 0, 1) &&
                          wanted(require->ep, 0, 1);
    for (uint32_t groups = 1; possible && groups < 1U << num_groups; groups++) {
        const int32_t num = count_bits(groups);
        if (num > 1 && (!problem->all_groups || num == num_groups)) {
            try_groups(&lister, groups, given);
        }
    }
    *out = lister.families;
    *out_num = lister.num_families;
}
