/* The table of schedules and what all of them share. */
#include "schedule/builders.h"

static const struct hlm_schedule_builder *const builders[HLM_NUM_SCHEDULES] = {
    [HLM_SCHEDULE_GPIPE] = &hlm_gpipe_builder,
    [HLM_SCHEDULE_1F1B] = &hlm_one_f_one_b_builder,
};

/* Keeps the length of every list, and every index into arrays of (stage, microbatch), in int32_t.
 */
enum { MAX_STAGE_MICROBATCHES = 1 << 28 };

enum hlm_status hlm_schedule_check_one_chunk(const struct hlm_schedule_shape *shape,
                                             struct hlm_err *err)
{
    if (shape->chunks != 1) {
        return hlm_fail(err, HLM_NO,
                        "this schedule runs one model chunk a rank: expected vpp = 1, found %d",
                        shape->chunks);
    }
    return HLM_OK;
}

int32_t hlm_schedule_stage_rank_round_robin(const struct hlm_schedule_shape *shape, int32_t stage)
{
    return stage % shape->num_ranks;
}

static enum hlm_status check_shape(const struct hlm_schedule_shape *shape, struct hlm_err *err)
{
    const struct {
        const char *name;
        int32_t value;
    } sizes[] = {{"pp", shape->num_ranks},
                 {"vpp", shape->chunks},
                 {"num_microbatches", shape->num_microbatches}};
    double product = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i].value < 1) {
            return hlm_fail(err, HLM_NO, "expected %s >= 1, found %d", sizes[i].name,
                            sizes[i].value);
        }
        product *= sizes[i].value;
    }
    if (product > MAX_STAGE_MICROBATCHES) {
        return hlm_fail(
            err, HLM_NO, "expected pp * vpp * num_microbatches <= %d, found %d * %d * %d",
            MAX_STAGE_MICROBATCHES, shape->num_ranks, shape->chunks, shape->num_microbatches);
    }
    return HLM_OK;
}

static const struct hlm_schedule *fill_all(struct hlm_arena *arena, enum hlm_schedule_kind kind,
                                           const struct hlm_schedule_shape *shape)
{
    const struct hlm_schedule_builder *builder = builders[kind];
    const int32_t num_stages = shape->num_ranks * shape->chunks;
    int32_t *stage_rank = HLM_ARENA_ARRAY(arena, int32_t, num_stages);
    for (int32_t stage = 0; stage < num_stages; stage++) {
        stage_rank[stage] = builder->stage_rank(shape, stage);
    }
    struct hlm_rank_actions *ranks =
        HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, shape->num_ranks);
    const int32_t room = shape->chunks * shape->num_microbatches * builder->actions_per_microbatch;
    for (int32_t rank = 0; rank < shape->num_ranks; rank++) {
        struct hlm_action *actions = HLM_ARENA_ARRAY(arena, struct hlm_action, room);
        ranks[rank].num_actions = builder->fill(shape, rank, actions);
        ranks[rank].actions = actions;
        HLM_ASSERT(ranks[rank].num_actions <= room);
    }
    struct hlm_schedule *schedule = HLM_ARENA_NEW(arena, struct hlm_schedule);
    *schedule = (struct hlm_schedule){.kind = kind,
                                      .num_ranks = shape->num_ranks,
                                      .num_stages = num_stages,
                                      .num_microbatches = shape->num_microbatches,
                                      .stage_rank = stage_rank,
                                      .ranks = ranks};
    return schedule;
}

enum hlm_status hlm_schedule_build(struct hlm_arena *arena, enum hlm_schedule_kind kind,
                                   int32_t num_ranks, int32_t chunks, int32_t num_microbatches,
                                   const struct hlm_schedule **out, struct hlm_err *err)
{
    HLM_ASSERT((unsigned)kind < HLM_NUM_SCHEDULES);
    const struct hlm_schedule_shape shape = {num_ranks, chunks, num_microbatches};
    HLM_TRY(check_shape(&shape, err));
    HLM_TRY(builders[kind]->check(&shape, err));
    *out = fill_all(arena, kind, &shape);
    return HLM_OK;
}

int32_t hlm_schedule_in_flight(enum hlm_schedule_kind kind, int32_t num_stages,
                               int32_t num_microbatches, int32_t stage)
{
    HLM_ASSERT((unsigned)kind < HLM_NUM_SCHEDULES);
    HLM_ASSERT(stage >= 0 && stage < num_stages);
    return builders[kind]->in_flight(num_stages, num_microbatches, stage);
}

int32_t hlm_schedule_first_stage(const struct hlm_schedule *schedule, int32_t rank)
{
    int32_t stage = 0;
    while (stage < schedule->num_stages && schedule->stage_rank[stage] != rank) {
        stage++;
    }
    HLM_ASSERT(stage < schedule->num_stages);
    return stage;
}
