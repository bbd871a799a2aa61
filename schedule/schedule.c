/* The table of schedules and what all of them share. */
#include "schedule/builders.h"

static const struct hlm_schedule_builder *const builders[HLM_NUM_SCHEDULES] = {
    [HLM_SCHEDULE_GPIPE] = &hlm_gpipe_builder,
    [HLM_SCHEDULE_1F1B] = &hlm_one_f_one_b_builder,
    [HLM_SCHEDULE_1F1B_OVERLAP] = &hlm_one_f_one_b_overlap_builder,
    [HLM_SCHEDULE_INTERLEAVED] = &hlm_interleaved_builder,
    [HLM_SCHEDULE_ZB_H1] = &hlm_zb_h1_builder,
    [HLM_SCHEDULE_ZB_H2] = &hlm_zb_h2_builder,
    [HLM_SCHEDULE_ZB_V] = &hlm_zb_v_builder,
    [HLM_SCHEDULE_V_HALF] = &hlm_v_half_builder,
    [HLM_SCHEDULE_V_MIN] = &hlm_v_min_builder,
    [HLM_SCHEDULE_DUALPIPE_V] = &hlm_dualpipe_v_builder,
};

/* Keeps the length of every list, and every index into arrays of (stage, microbatch), in int32_t.
 */
enum { MAX_STAGE_MICROBATCHES = 1 << 28 };

int32_t hlm_schedule_stage_rank_round_robin(const struct hlm_schedule_shape *shape, int32_t stage)
{
    return stage % shape->num_ranks;
}

int32_t hlm_schedule_stage_rank_v(const struct hlm_schedule_shape *shape, int32_t stage)
{
    return stage < shape->num_ranks ? stage : 2 * shape->num_ranks - 1 - stage;
}

static enum hlm_status check_sizes(const struct hlm_schedule_shape *shape, struct hlm_err *err)
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

static enum hlm_status check_shape(enum hlm_schedule_kind kind,
                                   const struct hlm_schedule_shape *shape, struct hlm_err *err)
{
    HLM_TRY(check_sizes(shape, err));
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(kind);
    if (shape->chunks < chunks.min || shape->chunks > chunks.max) {
        return hlm_fail(err, HLM_NO, "schedule %s expected vpp %s %d, found %d",
                        hlm_schedule_texts[kind], chunks.min == chunks.max ? "=" : ">=", chunks.min,
                        shape->chunks);
    }
    return builders[kind]->check == NULL ? HLM_OK : builders[kind]->check(shape, err);
}

static struct hlm_action_writer *fill_lists(struct hlm_arena *arena, enum hlm_schedule_kind kind,
                                            const struct hlm_schedule_shape *shape)
{
    const struct hlm_schedule_builder *builder = builders[kind];
    const int32_t room = shape->chunks * shape->num_microbatches * builder->actions_per_microbatch;
    struct hlm_action_writer *lists =
        HLM_ARENA_ARRAY(arena, struct hlm_action_writer, shape->num_ranks);
    for (int32_t rank = 0; rank < shape->num_ranks; rank++) {
        lists[rank].actions = HLM_ARENA_ARRAY(arena, struct hlm_action, room);
        lists[rank].room = room;
    }
    const struct hlm_arena_mark mark = hlm_arena_mark(arena);
    if (builder->fill_all != NULL) {
        builder->fill_all(arena, shape, lists);
    } else {
        for (int32_t rank = 0; rank < shape->num_ranks; rank++) {
            builder->fill(shape, rank, &lists[rank]);
        }
    }
    hlm_arena_rewind(arena, mark);
    return lists;
}

static const struct hlm_schedule *build(struct hlm_arena *arena, enum hlm_schedule_kind kind,
                                        const struct hlm_schedule_shape *shape)
{
    const int32_t num_stages = shape->num_ranks * shape->chunks;
    int32_t *stage_rank = HLM_ARENA_ARRAY(arena, int32_t, num_stages);
    for (int32_t stage = 0; stage < num_stages; stage++) {
        stage_rank[stage] = builders[kind]->stage_rank(shape, stage);
    }
    struct hlm_rank_actions *ranks =
        HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, shape->num_ranks);
    const struct hlm_action_writer *lists = fill_lists(arena, kind, shape);
    for (int32_t rank = 0; rank < shape->num_ranks; rank++) {
        ranks[rank] = (struct hlm_rank_actions){lists[rank].actions, lists[rank].count};
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

static struct hlm_schedule_shape shape_of(const struct hlm_schedule_params *params)
{
    HLM_ASSERT((unsigned)params->kind < HLM_NUM_SCHEDULES);
    HLM_ASSERT(params->group_size == 0 || params->kind == HLM_SCHEDULE_INTERLEAVED);
    return (struct hlm_schedule_shape){
        .num_ranks = params->num_ranks,
        .chunks = params->chunks,
        .num_microbatches = params->num_microbatches,
        .group_size = params->group_size == 0 ? params->num_ranks : params->group_size};
}

enum hlm_status hlm_schedule_check_params(const struct hlm_schedule_params *params,
                                          struct hlm_err *err)
{
    const struct hlm_schedule_shape shape = shape_of(params);
    return check_shape(params->kind, &shape, err);
}

enum hlm_status hlm_schedule_build_with(struct hlm_arena *arena,
                                        const struct hlm_schedule_params *params,
                                        const struct hlm_schedule **out, struct hlm_err *err)
{
    const struct hlm_schedule_shape shape = shape_of(params);
    HLM_TRY(check_shape(params->kind, &shape, err));
    *out = build(arena, params->kind, &shape);
    return HLM_OK;
}

enum hlm_status hlm_schedule_build(struct hlm_arena *arena, enum hlm_schedule_kind kind,
                                   int32_t num_ranks, int32_t chunks, int32_t num_microbatches,
                                   const struct hlm_schedule **out, struct hlm_err *err)
{
    const struct hlm_schedule_params params = {.kind = kind,
                                               .num_ranks = num_ranks,
                                               .chunks = chunks,
                                               .num_microbatches = num_microbatches};
    return hlm_schedule_build_with(arena, &params, out, err);
}

int32_t hlm_schedule_in_flight(enum hlm_schedule_kind kind, int32_t num_stages,
                               int32_t num_microbatches, int32_t stage)
{
    HLM_ASSERT((unsigned)kind < HLM_NUM_SCHEDULES);
    HLM_ASSERT(stage >= 0 && stage < num_stages);
    if (builders[kind]->in_flight != NULL) {
        return builders[kind]->in_flight(num_stages, num_microbatches, stage);
    }
    const struct hlm_schedule_chunks chunks = hlm_schedule_chunks(kind);
    HLM_ASSERT(chunks.min == chunks.max && num_stages % chunks.min == 0);
    const struct hlm_schedule_shape shape = {.num_ranks = num_stages / chunks.min,
                                             .chunks = chunks.min,
                                             .num_microbatches = num_microbatches};
    struct hlm_arena *scratch = hlm_arena_new();
    const int32_t most = hlm_schedule_in_flights(scratch, build(scratch, kind, &shape))[stage];
    hlm_arena_free(scratch);
    return most;
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
