/* Programs of a schedule with tensor and data parallelism around it. */
#include "schedule/simgrid.h"

/* Tags: 2 (stage * num_microbatches + microbatch) + direction for messages, so that no two sends of
 * a rank share one; behind them one for each kind of group. */
struct tags {
    int32_t tp, dp;
};

struct writer {
    const struct hlm_simgrid_job *job;
    struct tags tags;
    int32_t pipeline_rank;
    int32_t rank; /* world */
    const int32_t *tp_members, *dp_members;
    struct hlm_simgrid_item *items;
    int32_t num_items;
};

static void add(struct writer *writer, struct hlm_simgrid_item item)
{
    writer->items[writer->num_items++] = item;
}

/* The message that a stage gives to its neighbour (+1: forward, -1: gradient), as the writer's rank
 * sees it. */
static void add_message(struct writer *writer, enum hlm_simgrid_kind kind, int32_t stage,
                        int32_t direction, int32_t microbatch)
{
    const struct hlm_simgrid_job *job = writer->job;
    const struct hlm_schedule *schedule = job->schedule;
    const int32_t taker = stage + direction;
    if (stage < 0 || stage >= schedule->num_stages || taker < 0 || taker >= schedule->num_stages ||
        schedule->stage_rank[stage] == schedule->stage_rank[taker]) {
        return;
    }
    const int32_t other = schedule->stage_rank[kind == HLM_SIMGRID_SEND ? taker : stage];
    const bool forward = direction > 0;
    add(writer,
        (struct hlm_simgrid_item){
            .kind = kind,
            .bytes = forward ? job->send_forward_bytes[stage] : job->send_backward_bytes[stage],
            .peer = writer->rank + (other - writer->pipeline_rank) * job->dp * job->tp,
            .tag = 2 * (stage * schedule->num_microbatches + microbatch) + (forward ? 0 : 1)});
}

static void add_compute(struct writer *writer, double seconds, int32_t num_all_reduces,
                        int32_t stage)
{
    const struct hlm_simgrid_job *job = writer->job;
    const int32_t parts = job->tp > 1 && num_all_reduces > 0 ? num_all_reduces : 1;
    for (int32_t i = 0; i < parts; i++) {
        add(writer,
            (struct hlm_simgrid_item){.kind = HLM_SIMGRID_COMPUTE, .seconds = seconds / parts});
        if (job->tp > 1 && num_all_reduces > 0) {
            add(writer, (struct hlm_simgrid_item){.kind = HLM_SIMGRID_ALL_REDUCE,
                                                  .bytes = job->tp_bytes[stage],
                                                  .tag = writer->tags.tp,
                                                  .members = writer->tp_members,
                                                  .num_members = job->tp});
        }
    }
}

/* One compute action: what it waits for, itself, what it gives. index: among the rank's compute
 * actions. */
static void add_action(struct writer *writer, struct hlm_action action, int32_t index)
{
    const struct hlm_simgrid_job *job = writer->job;
    const struct hlm_sim_costs *costs = job->costs;
    const double *const durations[] = {
        [HLM_ACTION_F] = costs->forward_s,
        [HLM_ACTION_B] = costs->backward_s,
        [HLM_ACTION_I] = costs->input_grad_s,
        [HLM_ACTION_W] = costs->weight_grad_s,
    };
    const double seconds = costs->action_s == NULL ? durations[action.kind][action.stage]
                                                   : costs->action_s[writer->pipeline_rank][index];
    const int32_t direction = action.kind == HLM_ACTION_F ? 1 : -1;
    if (action.kind == HLM_ACTION_W) {
        add_compute(writer, seconds, 0, action.stage);
        return;
    }
    add_message(writer, HLM_SIMGRID_RECV, action.stage - direction, direction, action.microbatch);
    add_compute(writer, seconds,
                direction > 0 ? job->forward_all_reduces : job->backward_all_reduces, action.stage);
    add_message(writer, HLM_SIMGRID_SEND, action.stage, direction, action.microbatch);
}

/* Gradients of the rank's stages, in the order of their last backwards. */
static void add_reductions(struct hlm_arena *arena, struct writer *writer)
{
    const struct hlm_simgrid_job *job = writer->job;
    const struct hlm_rank_actions *list = &job->schedule->ranks[writer->pipeline_rank];
    int32_t *done = HLM_ARENA_ARRAY(arena, int32_t, job->schedule->num_stages);
    for (int32_t i = 0; i < list->num_actions; i++) {
        const struct hlm_action action = list->actions[i];
        if ((action.kind == HLM_ACTION_B || action.kind == HLM_ACTION_W) &&
            ++done[action.stage] == job->schedule->num_microbatches) {
            add(writer, (struct hlm_simgrid_item){.kind = HLM_SIMGRID_ALL_REDUCE,
                                                  .bytes = job->dp_bytes[action.stage],
                                                  .tag = writer->tags.dp,
                                                  .members = writer->dp_members,
                                                  .num_members = job->dp});
        }
    }
}

static size_t room(const struct hlm_simgrid_job *job, int32_t pipeline_rank)
{
    const int32_t most = job->forward_all_reduces > job->backward_all_reduces
                             ? job->forward_all_reduces
                             : job->backward_all_reduces;
    const size_t num_actions = (size_t)job->schedule->ranks[pipeline_rank].num_actions;
    return num_actions * (4 + 2 * (size_t)most) + (size_t)job->schedule->num_stages;
}

static struct hlm_simgrid_program write_program(struct hlm_arena *arena, struct writer *writer)
{
    const struct hlm_simgrid_job *job = writer->job;
    const struct hlm_rank_actions *list = &job->schedule->ranks[writer->pipeline_rank];
    writer->items =
        HLM_ARENA_ARRAY(arena, struct hlm_simgrid_item, room(job, writer->pipeline_rank));
    int32_t index = 0;
    for (int32_t i = 0; i < list->num_actions; i++) {
        HLM_ASSERT(list->actions[i].kind != HLM_ACTION_OVERLAP_F_B);
        if (hlm_action_is_compute(list->actions[i].kind)) {
            add_action(writer, list->actions[i], index++);
        }
    }
    if (job->dp > 1 && job->dp_bytes != NULL) {
        add_reductions(arena, writer);
    }
    return (struct hlm_simgrid_program){writer->items, writer->num_items};
}

static const int32_t *every(struct hlm_arena *arena, int32_t first, int32_t step, int32_t count)
{
    int32_t *members = HLM_ARENA_ARRAY(arena, int32_t, count);
    for (int32_t i = 0; i < count; i++) {
        members[i] = first + i * step;
    }
    return members;
}

const struct hlm_simgrid_program *hlm_simgrid_programs(struct hlm_arena *arena,
                                                       const struct hlm_simgrid_job *job)
{
    const int32_t block = job->dp * job->tp; /* world ranks of a pipeline rank */
    const int32_t world_size = job->schedule->num_ranks * block;
    const int32_t first_tag = 2 * job->schedule->num_stages * job->schedule->num_microbatches;
    struct hlm_simgrid_program *programs =
        HLM_ARENA_ARRAY(arena, struct hlm_simgrid_program, world_size);
    for (int32_t rank = 0; rank < world_size; rank++) {
        const int32_t tp_index = rank % job->tp;
        const int32_t first_of_block = rank / block * block;
        struct writer writer = {
            .job = job,
            .tags = {.tp = first_tag, .dp = first_tag + 1},
            .pipeline_rank = rank / block,
            .rank = rank,
            .tp_members = every(arena, rank - tp_index, 1, job->tp),
            .dp_members = every(arena, first_of_block + tp_index, job->tp, job->dp),
        };
        programs[rank] = write_program(arena, &writer);
    }
    return programs;
}
