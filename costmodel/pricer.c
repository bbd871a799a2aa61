/* Prices of the blocks of a strategy on a device group. */
#include <math.h>

#include "base/fmt.h"
#include "costmodel/pricer_internal.h"

static void add_jitter(const struct hlm_strategy *strategy, struct hlm_pass_cost *pass)
{
    const double num_ranks =
        (double)hlm_strategy_world_size(strategy) * hlm_strategy_all_dp(strategy) / strategy->dp;
    const double frac = hlm_lowering_framework(strategy->lowering)->jitter_frac;
    const double seconds = frac * sqrt(2.0 * log(num_ranks)) * pass->seconds;
    pass->part[HLM_PART_JITTER] += seconds;
    pass->seconds += seconds;
}

static int64_t with_fragments(const struct hlm_strategy *strategy, int64_t bytes)
{
    const double frac = hlm_lowering_framework(strategy->lowering)->fragments_frac;
    return frac > 0.0 ? hlm_align_bytes((double)bytes * (1.0 + frac)) : bytes;
}

static bool is_layer(enum hlm_block_kind kind)
{
    return kind == HLM_BLOCK_DENSE || kind == HLM_BLOCK_MOE;
}

/* With whole and with split backwards. */
enum { NUM_FORMS = 2 };

/* A block as its operators have it, whatever the schedule and the sharing of states. */
struct hlm_raw_block {
    struct hlm_block_cost cost;
    int64_t slot_bytes[NUM_FORMS], transient_bytes[NUM_FORMS];
    int64_t input_bytes, stash_bytes;         /* of slot_bytes: what a whole backward reads */
    struct hlm_block_shards units[NUM_FORMS]; /* of sets that share in turn, not padded */
};

static void price_block(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                        const struct hlm_block *block, struct hlm_raw_block *out)
{
    struct hlm_block_cost *cost = &out->cost;
    *cost = (struct hlm_block_cost){0};
    const struct hlm_block_prices prices = hlm_block_prices_new(arena, pricer, block);
    hlm_price_passes(pricer, block, &prices, cost);
    for (int32_t form = 0; form < NUM_FORMS; form++) {
        struct hlm_block_memory memory;
        hlm_block_memory_of(arena, block, form == 1, &memory);
        if (hlm_lowering_framework(pricer->strategy->lowering)->shares_in_turn) {
            hlm_block_units(block, form == 1, pricer->model->tied_embeddings, &out->units[form]);
        }
        out->slot_bytes[form] = hlm_block_slot_bytes(block, &memory);
        out->input_bytes = memory.keeps_input ? memory.input_bytes : 0;
        out->stash_bytes = memory.stash_bytes;
        out->transient_bytes[form] =
            memory.forward_transient_bytes > memory.backward_transient_bytes
                ? memory.forward_transient_bytes
                : memory.backward_transient_bytes;
        cost->output_bytes = memory.output_bytes;
        cost->num_elements = memory.num_param_elements;
        cost->num_expert_elements = memory.num_expert_elements;
    }
    for (int32_t i = 0; i < block->num_params; i++) {
        const struct hlm_param *param = &block->params[i];
        cost->num_sum_over_tp += param->sum_over_tp ? param->rows * param->cols : 0;
    }
}

/* What a layer keeps in the host's memory in place of its slot, and the window that this takes. */
static void move_to_host(const struct hlm_pricer *pricer, const struct hlm_raw_block *raw,
                         struct hlm_block_cost *out)
{
    const struct hlm_strategy *strategy = pricer->strategy;
    const struct hlm_offload_parts parts = hlm_offload_parts(strategy->offload);
    const int64_t layer_bytes =
        (parts.inputs ? raw->input_bytes : 0) + (parts.activations ? raw->stash_bytes : 0);
    const double share = strategy->offload_layers == 0
                             ? 1.0
                             : (double)strategy->offload_layers / pricer->model->num_layers;
    out->host_slot_bytes = (int64_t)((double)layer_bytes * share);
    out->slot_bytes -= out->host_slot_bytes;
    out->transient_bytes += HLM_OFFLOAD_WINDOW * layer_bytes;
}

static void expose_copies(const struct hlm_pricer *pricer, struct hlm_block_cost *out)
{
    if (out->host_slot_bytes > 0) {
        const double copy_s = hlm_offload_copy_s(&pricer->cluster->groups[pricer->device_group],
                                                 (double)out->host_slot_bytes);
        const double exposed_s =
            fmax(0.0, copy_s - out->forward.seconds) + fmax(0.0, copy_s - out->backward.seconds);
        out->backward.part[HLM_PART_OFFLOAD] += exposed_s;
        out->backward.seconds += exposed_s;
    }
}

/* What schedule, sharing of states and framework make of it. */
static void finish_block(const struct hlm_pricer *pricer, const struct hlm_raw_block *raw,
                         enum hlm_block_kind kind, struct hlm_block_cost *out)
{
    const int32_t form = hlm_schedule_splits(pricer->strategy->schedule) ? 1 : 0;
    *out = raw->cost;
    out->slot_bytes = raw->slot_bytes[form];
    out->transient_bytes = raw->transient_bytes[form];
    hlm_price_sharing(pricer, &raw->units[form], out);
    if (is_layer(kind)) {
        move_to_host(pricer, raw, out);
    }
    out->slot_bytes = with_fragments(pricer->strategy, out->slot_bytes);
    out->transient_bytes = with_fragments(pricer->strategy, out->transient_bytes);
    struct hlm_pass_cost *const passes[] = {&out->forward, &out->backward, &out->input_grad,
                                            &out->weight_grad};
    for (size_t i = 0; i < sizeof passes / sizeof passes[0]; i++) {
        add_jitter(pricer->strategy, passes[i]);
    }
    expose_copies(pricer, out);
}

static int32_t num_modes(enum hlm_block_kind kind)
{
    return is_layer(kind) ? HLM_NUM_RECOMPUTES : 1;
}

static void finish_blocks(struct hlm_pricer *pricer)
{
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        for (int32_t mode = 0; pricer->has_kind[kind] && mode < num_modes(kind); mode++) {
            finish_block(pricer, &pricer->raw[kind * HLM_NUM_RECOMPUTES + mode],
                         (enum hlm_block_kind)kind, &pricer->blocks[kind][mode]);
        }
    }
}

static bool model_has_kind(const struct hlm_model *model, enum hlm_block_kind kind)
{
    if (kind == HLM_BLOCK_EMBEDDING || kind == HLM_BLOCK_HEAD) {
        return true;
    }
    for (int32_t layer = 0; layer < model->num_layers; layer++) {
        if (hlm_model_is_moe_layer(model, layer) == (kind == HLM_BLOCK_MOE)) {
            return true;
        }
    }
    return false;
}

/* Microbatches whose activations a stage holds, at most: pp in 1f1b, fewer than twice as many where
 * a schedule hides latency or bubbles behind them. */
static double max_in_flight(const struct hlm_strategy *strategy)
{
    const double m = (double)strategy->num_microbatches;
    const double ahead = strategy->schedule == HLM_SCHEDULE_1F1B ? 1.0 : 2.0;
    return strategy->schedule == HLM_SCHEDULE_GPIPE ? m : fmin(m, ahead * strategy->pp);
}

/* No device has 2^60 bytes, and sums of sizes must not leave 64 bits. */
static enum hlm_status check_activations(const struct hlm_pricer *pricer,
                                         const struct hlm_block *block, struct hlm_err *err)
{
    static const double max_bytes = 0x1p60;
    double bytes = 0.0;
    for (int32_t i = 0; i < block->num_tensors; i++) {
        const enum hlm_tensor_role role = block->tensors[i].role;
        bytes += role == HLM_TENSOR_PARAM || role == HLM_TENSOR_GRAD
                     ? 0.0
                     : hlm_tensor_bytes(&block->tensors[i]) + HLM_ALIGNMENT_BYTES;
    }
    const double all = bytes * (pricer->model->num_layers + 2) * max_in_flight(pricer->strategy);
    return all > max_bytes
               ? hlm_fail(err, HLM_NO, "the activations of all layers and microbatches need %s",
                          hlm_fmt_bytes(all).text)
               : HLM_OK;
}

static struct hlm_lowering_input lowering_input(const struct hlm_pricer *pricer)
{
    return (struct hlm_lowering_input){
        .model = pricer->model,
        .strategy = pricer->strategy,
        .backend = pricer->cluster->groups[pricer->device_group].device.backend,
        .last_stage_copy =
            pricer->model->tied_embeddings && hlm_layout_ends_apart(pricer->strategy)};
}

static enum hlm_status price_kind(struct hlm_arena *arena, const struct hlm_pricer *pricer,
                                  enum hlm_block_kind kind,
                                  struct hlm_raw_block out[HLM_NUM_RECOMPUTES], struct hlm_err *err)
{
    const struct hlm_lowering_input input = lowering_input(pricer);
    for (int32_t mode = 0; mode < num_modes(kind); mode++) {
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        const struct hlm_block *block = NULL;
        HLM_TRY(hlm_lowering_block(arena, &input, kind, (enum hlm_recompute)mode, &block, err));
        HLM_TRY(check_activations(pricer, block, err));
        price_block(arena, pricer, block, &out[mode]);
        hlm_arena_rewind(arena, mark);
    }
    return HLM_OK;
}

/* The first stage on the device group whose ranks see the strategy so. */
static int32_t stage_of_group(const struct hlm_strategy *strategy,
                              const struct hlm_cluster *cluster, int32_t device_group)
{
    for (int32_t pp = 0; pp < strategy->pp; pp++) {
        if (hlm_strategy_at(strategy, pp).tp == strategy->tp &&
            hlm_layout_device_group(strategy, cluster, pp) == device_group) {
            return pp;
        }
    }
    return 0;
}

/* All but the blocks. */
static enum hlm_status start_pricer(const struct hlm_model *model,
                                    const struct hlm_strategy *strategy,
                                    const struct hlm_cluster *cluster, int32_t device_group,
                                    struct hlm_pricer *out, struct hlm_err *err)
{
    HLM_TRY(hlm_strategy_check(strategy, model, err));
    HLM_TRY(hlm_offload_check(strategy, &cluster->groups[device_group], err));
    const struct hlm_device *device = &cluster->groups[device_group].device;
    if (hlm_device_dtype(device, strategy->dtype) == NULL) {
        return hlm_fail(err, HLM_NO, "device %s has no %s", device->name,
                        hlm_dtype_texts[strategy->dtype]);
    }
    const int64_t rows = strategy->microbatch_size * strategy->seq_len / strategy->cp /
                         (strategy->sp ? strategy->tp : 1);
    *out = (struct hlm_pricer){
        .model = model,
        .strategy = strategy,
        .cluster = cluster,
        .device_group = device_group,
        .stage = stage_of_group(strategy, cluster, device_group),
        .boundary_bytes = (int64_t)ceil((double)(rows * model->hidden_size) *
                                        hlm_dtype_bytes(hlm_dtype_storage(strategy->dtype))),
        .limit_bytes = device->memory_bytes,
        .fixed_bytes = device->fixed_memory_bytes};
    return HLM_OK;
}

enum hlm_status hlm_pricer_init(struct hlm_arena *arena, const struct hlm_model *model,
                                const struct hlm_strategy *strategy,
                                const struct hlm_cluster *cluster, int32_t device_group,
                                struct hlm_pricer *out, struct hlm_err *err)
{
    struct hlm_raw_block *raw =
        HLM_ARENA_ARRAY(arena, struct hlm_raw_block, HLM_NUM_BLOCKS * HLM_NUM_RECOMPUTES);
    HLM_TRY(start_pricer(model, strategy, cluster, device_group, out, err));
    out->raw = raw;
    for (int32_t kind = 0; kind < HLM_NUM_BLOCKS; kind++) {
        out->has_kind[kind] = model_has_kind(model, (enum hlm_block_kind)kind);
        if (out->has_kind[kind]) {
            HLM_TRY(price_kind(arena, out, (enum hlm_block_kind)kind,
                               &raw[kind * HLM_NUM_RECOMPUTES], err));
        }
    }
    finish_blocks(out);
    return HLM_OK;
}

void hlm_pricer_reuse(const struct hlm_pricer *priced, const struct hlm_strategy *strategy,
                      struct hlm_pricer *out)
{
    *out = *priced;
    out->strategy = strategy;
    out->stage = stage_of_group(strategy, priced->cluster, priced->device_group);
    finish_blocks(out);
}

/* --- least layers --- */

struct hlm_least_layer {
    struct hlm_pricer pricer; /* its strategy is gone, but for the call that uses it */
    const struct hlm_block *block;
    struct hlm_block_prices prices;
};

enum hlm_status hlm_least_layer_new(struct hlm_arena *arena, const struct hlm_model *model,
                                    const struct hlm_strategy *strategy,
                                    const struct hlm_cluster *cluster, int32_t device_group,
                                    enum hlm_block_kind kind, struct hlm_least_layer **out,
                                    struct hlm_err *err)
{
    struct hlm_least_layer *least = HLM_ARENA_NEW(arena, struct hlm_least_layer);
    HLM_TRY(start_pricer(model, strategy, cluster, device_group, &least->pricer, err));
    const struct hlm_lowering_input input = lowering_input(&least->pricer);
    HLM_TRY(hlm_lowering_block(arena, &input, kind, HLM_RECOMPUTE_NONE, &least->block, err));
    least->prices = hlm_block_prices_new(arena, &least->pricer, least->block);
    *out = least;
    return HLM_OK;
}

double hlm_least_layer_s(struct hlm_least_layer *least, const struct hlm_strategy *strategy)
{
    struct hlm_block_cost cost;
    least->pricer.strategy = strategy;
    least->pricer.stage =
        stage_of_group(strategy, least->pricer.cluster, least->pricer.device_group);
    hlm_block_prices_move(&least->pricer, least->block, &least->prices);
    hlm_price_passes(&least->pricer, least->block, &least->prices, &cost);
    return cost.forward.seconds +
           fmin(cost.backward.seconds, cost.input_grad.seconds + cost.weight_grad.seconds);
}
