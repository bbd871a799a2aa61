#include "planner/verify_share.h"

#include <math.h>
#include <string.h>

static const struct hlm_block_cost *layer_cost(const struct hlm_verifier *v, int32_t stage,
                                               int32_t layer, int32_t mode)
{
    return &v->pricers[stage]->blocks[hlm_plan_layer_kind(v->model, layer)][mode];
}

static bool mode_allowed(const struct hlm_verifier *v, int32_t mode)
{
    return v->recompute < 0 || v->recompute == mode;
}

static double smaller(double a, double b) /* fmin takes a call, for the sake of numbers not there */
{
    return a < b ? a : b;
}

static double block_seconds(const struct hlm_verifier *v, int32_t stage, enum hlm_block_kind kind)
{
    const struct hlm_block_cost *block = &v->pricers[stage]->blocks[kind][HLM_RECOMPUTE_NONE];
    return block->forward.seconds + block->backward.seconds;
}

/* --- preparation --- */

static size_t row_of(const struct hlm_verifier *v, int32_t stage)
{
    return (size_t)stage * ((size_t)v->num_layers + 1);
}

static void add_layer_sums(const struct hlm_verifier *v, int32_t stage, int32_t layer,
                           double *forward_s)
{
    double *least_s = &v->least_s[row_of(v, stage)];
    double own_s = INFINITY;
    forward_s[layer + 1] = INFINITY;
    for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
        const struct hlm_block_cost *cost = layer_cost(v, stage, layer, mode);
        forward_s[layer + 1] =
            smaller(forward_s[layer + 1], forward_s[layer] + cost->forward.seconds);
        if (mode_allowed(v, mode)) {
            own_s = smaller(own_s, cost->forward.seconds + cost->backward.seconds);
        }
    }
    least_s[layer + 1] = least_s[layer] + own_s;
}

/* forward_s: of the stage in front, and then of this one. */
static void sum_layers(const struct hlm_verifier *v, int32_t stage, double *forward_s)
{
    if (stage > 0 && v->pricers[stage] == v->pricers[stage - 1]) {
        memcpy(&v->least_s[row_of(v, stage)], &v->least_s[row_of(v, stage - 1)],
               ((size_t)v->num_layers + 1) * sizeof(double));
        return;
    }
    for (int32_t layer = 0; layer < v->num_layers; layer++) {
        add_layer_sums(v, stage, layer, forward_s);
    }
}

/* What stage + 1 stages with `end` layers take, from what those in front of the last take. All
 * alike: it does not matter which of them has a layer. */
static void add_front(const struct hlm_verifier *v, int32_t stage, const double *forward_s,
                      bool alike)
{
    const double *before_s = &v->front_s[row_of(v, stage)];
    const double *before_forward_s = &v->front_forward_s[row_of(v, stage)];
    double *front_s = &v->front_s[row_of(v, stage + 1)];
    double *front_forward_s = &v->front_forward_s[row_of(v, stage + 1)];
    const double *least_s = &v->least_s[row_of(v, stage)];
    for (int32_t end = 0; end <= v->num_layers; end++) {
        double whole_s = alike ? least_s[end] : (double)INFINITY;
        double down_s = alike ? forward_s[end] : (double)INFINITY;
        for (int32_t begin = end; !alike && begin >= 0; begin--) {
            const double own_s = least_s[end] - least_s[begin];
            if (v->num_microbatches * own_s >= v->goal_s) {
                break;
            }
            whole_s = smaller(whole_s, before_s[begin] + own_s);
            down_s = smaller(down_s, before_forward_s[begin] + (forward_s[end] - forward_s[begin]));
        }
        front_s[end] = whole_s;
        front_forward_s[end] = down_s;
    }
}

static void prepare_layers(struct hlm_verifier *v)
{
    const size_t size = row_of(v, v->num_stages + 1);
    v->least_s = HLM_ARENA_ARRAY(v->arena, double, size);
    v->front_s = HLM_ARENA_ARRAY(v->arena, double, size);
    v->front_forward_s = HLM_ARENA_ARRAY(v->arena, double, size);
    double *forward_s = HLM_ARENA_ARRAY(v->arena, double, v->num_layers + 1);
    bool alike = true;
    for (int32_t layer = 0; layer < v->num_layers; layer++) {
        v->front_s[layer + 1] = v->front_forward_s[layer + 1] = INFINITY;
    }
    for (int32_t s = 0; s < v->num_stages; s++) {
        alike = alike && v->pricers[s] == v->pricers[0];
        sum_layers(v, s, forward_s);
        add_front(v, s, forward_s, alike);
    }
    v->one_kind = true;
    for (int32_t layer = 0; layer < v->num_layers; layer++) {
        v->one_kind =
            v->one_kind && hlm_plan_layer_kind(v->model, layer) == hlm_plan_layer_kind(v->model, 0);
    }
}

void hlm_verifier_prepare(struct hlm_verifier *v)
{
    const size_t p = (size_t)v->num_stages, num = (size_t)v->num_layers + 1;
    v->transfer_s = HLM_ARENA_ARRAY(v->arena, double, p);
    v->transfers_s = HLM_ARENA_ARRAY(v->arena, double, p + 1);
    v->both_sides = HLM_ARENA_ARRAY(v->arena, bool, p);
    v->sync_s = hlm_stage_sync_s(v->pricers[0]);
    for (int32_t s = 0; s < v->num_stages; s++) {
        if (s + 1 < v->num_stages) {
            v->transfer_s[s] = hlm_stage_send_s(v->pricers[s], s, &v->both_sides[s]);
        }
        v->transfers_s[s + 1] = v->transfers_s[s] + v->transfer_s[s];
    }
    prepare_layers(v);
    v->shares =
        HLM_ARENA_ARRAY(v->arena, const struct hlm_share *, p *num *(v->one_kind ? 1 : num));
}

double hlm_verifier_least_s(const struct hlm_verifier *v, int32_t stage, int32_t begin, int32_t end)
{
    const double *least_s = &v->least_s[row_of(v, stage)];
    return least_s[end] - least_s[begin];
}

/* The least that stages in front of `stage`, with `begin` layers, take for a round trip. */
double hlm_verifier_front_s(const struct hlm_verifier *v, int32_t stage, int32_t begin)
{
    return v->front_s[row_of(v, stage) + (size_t)begin] +
           (stage > 0 ? block_seconds(v, 0, HLM_BLOCK_EMBEDDING) : 0.0) +
           2.0 * v->transfers_s[stage];
}

double hlm_verifier_front_forward_s(const struct hlm_verifier *v, int32_t stage, int32_t begin)
{
    const struct hlm_block_cost *embedding =
        &v->pricers[0]->blocks[HLM_BLOCK_EMBEDDING][HLM_RECOMPUTE_NONE];
    return v->front_forward_s[row_of(v, stage) + (size_t)begin] +
           (stage > 0 ? embedding->forward.seconds : 0.0) + v->transfers_s[stage];
}

/* The whole work once, and again for each p microbatches (1f1b) or its mean over the stages
 * (gpipe). */
double hlm_verifier_closed_form_s(const struct hlm_verifier *v)
{
    const double p = v->num_stages, rest = v->num_microbatches - 1;
    const double round_s = hlm_verifier_front_s(v, v->num_stages, v->num_layers) +
                           block_seconds(v, v->num_stages - 1, HLM_BLOCK_HEAD);
    const double work_s = round_s - 2.0 * v->transfers_s[v->num_stages];
    double fullest_s = INFINITY; /* of the fastest stage */
    for (int32_t s = 0; s < v->num_stages; s++) {
        fullest_s =
            fmin(fullest_s, ceil(v->num_layers / p) * hlm_verifier_least_s(v, s, 0, v->num_layers) /
                                v->num_layers);
    }
    const double busy_s = v->one_kind ? v->num_microbatches * fullest_s : 0.0;
    if (v->strategy->schedule == HLM_SCHEDULE_GPIPE) {
        return fmax(busy_s, round_s + rest * work_s / p) + v->sync_s;
    }
    return fmax(busy_s, (1.0 + floor(rest / p)) * round_s) + v->sync_s;
}

/* --- shares --- */

static struct hlm_stage_shape shape_of(const struct hlm_verifier *v, int32_t stage, int32_t begin,
                                       int32_t end, int32_t full, int32_t selective)
{
    struct hlm_stage_shape shape = {.stage = stage,
                                    .num_stages = v->num_stages,
                                    .embedding = stage == 0,
                                    .head = stage == v->num_stages - 1};
    for (int32_t layer = begin; layer < end; layer++) {
        const int32_t at = layer - begin;
        const int32_t mode = at < full               ? HLM_RECOMPUTE_FULL
                             : at < full + selective ? HLM_RECOMPUTE_SELECTIVE
                                                     : HLM_RECOMPUTE_NONE;
        shape.layers[hlm_plan_layer_kind(v->model, layer)][mode]++;
    }
    return shape;
}

/* What a choice of modes has to fit into: the stage without recompute, taken apart. */
struct room {
    int64_t left_bytes; /* for layers' slots times in_flight, and what transients go beyond
                           `transient` */
    int64_t transient_bytes;
    int32_t in_flight;
};

static int64_t largest_transient(const struct hlm_verifier *v, const struct hlm_stage_shape *shape)
{
    int64_t largest = 0;
    if (shape->embedding) {
        largest = v->pricers[shape->stage]
                      ->blocks[HLM_BLOCK_EMBEDDING][HLM_RECOMPUTE_NONE]
                      .transient_bytes;
    }
    if (shape->head) {
        const int64_t head =
            v->pricers[shape->stage]->blocks[HLM_BLOCK_HEAD][HLM_RECOMPUTE_NONE].transient_bytes;
        largest = head > largest ? head : largest;
    }
    for (int32_t kind = HLM_BLOCK_DENSE; kind <= HLM_BLOCK_MOE; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const int64_t mine = v->pricers[shape->stage]->blocks[kind][mode].transient_bytes;
            largest = shape->layers[kind][mode] > 0 && mine > largest ? mine : largest;
        }
    }
    return largest;
}

static int64_t layer_slots(const struct hlm_verifier *v, const struct hlm_stage_shape *shape)
{
    int64_t bytes = 0;
    for (int32_t kind = HLM_BLOCK_DENSE; kind <= HLM_BLOCK_MOE; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            bytes +=
                shape->layers[kind][mode] * v->pricers[shape->stage]->blocks[kind][mode].slot_bytes;
        }
    }
    return bytes;
}

static int64_t excess_bytes(const struct hlm_verifier *v, const struct hlm_stage_shape *shape,
                            struct hlm_stage_cost *cost)
{
    struct hlm_stage_memory memory;
    hlm_stage_cost(v->pricers[shape->stage], shape, cost);
    hlm_stage_memory(v->pricers[shape->stage], shape, cost,
                     hlm_schedule_in_flight(v->strategy->schedule, v->num_stages,
                                            (int32_t)v->num_microbatches, shape->stage),
                     &memory);
    return memory.peak_bytes - memory.limit_bytes;
}

static struct room make_room(const struct hlm_verifier *v, int32_t stage, int32_t begin,
                             int32_t end)
{
    const struct hlm_stage_shape plain = shape_of(v, stage, begin, end, 0, 0);
    struct hlm_stage_cost cost;
    struct room room = {.in_flight = hlm_schedule_in_flight(v->strategy->schedule, v->num_stages,
                                                            (int32_t)v->num_microbatches, stage)};
    const int64_t excess = excess_bytes(v, &plain, &cost);
    room.transient_bytes = largest_transient(v, &plain);
    room.left_bytes = room.in_flight * layer_slots(v, &plain) - excess;
    return room;
}

static bool fits_room(const struct hlm_verifier *v, const struct room *room,
                      const struct hlm_stage_shape *shape)
{
    return room->in_flight * layer_slots(v, shape) + largest_transient(v, shape) -
               room->transient_bytes <=
           room->left_bytes;
}

static double chosen_backward_s(const struct hlm_verifier *v, const struct hlm_stage_shape *shape)
{
    double seconds = 0.0;
    for (int32_t kind = HLM_BLOCK_DENSE; kind <= HLM_BLOCK_MOE; kind++) {
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            seconds += shape->layers[kind][mode] *
                       v->pricers[shape->stage]->blocks[kind][mode].backward.seconds;
        }
    }
    return seconds;
}

static bool choice_allowed(const struct hlm_verifier *v, int32_t count, int32_t full,
                           int32_t selective)
{
    return (full == 0 || mode_allowed(v, HLM_RECOMPUTE_FULL)) &&
           (selective == 0 || mode_allowed(v, HLM_RECOMPUTE_SELECTIVE)) &&
           (full + selective == count || mode_allowed(v, HLM_RECOMPUTE_NONE));
}

/* The next choice with the same `full`: one more layer goes from none to selective. */
static void move_to_selective(const struct hlm_verifier *v, struct hlm_stage_shape *shape,
                              int32_t layer)
{
    const enum hlm_block_kind kind = hlm_plan_layer_kind(v->model, layer);
    shape->layers[kind][HLM_RECOMPUTE_NONE]--;
    shape->layers[kind][HLM_RECOMPUTE_SELECTIVE]++;
}

/* Whether not even the smallest slots fit, transients of layers left out. */
static bool hopeless(const struct hlm_verifier *v, const struct room *room, int32_t stage,
                     int32_t begin, int32_t end)
{
    const struct hlm_stage_shape none = shape_of(v, stage, begin, begin, 0, 0);
    int64_t slots = 0;
    for (int32_t layer = begin; layer < end; layer++) {
        int64_t least = INT64_MAX;
        for (int32_t mode = 0; mode < HLM_NUM_RECOMPUTES; mode++) {
            const int64_t mine = layer_cost(v, stage, layer, mode)->slot_bytes;
            least = mode_allowed(v, mode) && mine < least ? mine : least;
        }
        slots += least;
    }
    return room->in_flight * slots + largest_transient(v, &none) - room->transient_bytes >
           room->left_bytes;
}

/* Every choice whose backward is less than the best so far is asked whether it fits. */
static struct hlm_share make_share(const struct hlm_verifier *v, int32_t stage, int32_t begin,
                                   int32_t end)
{
    const int32_t count = end - begin;
    const struct room room = make_room(v, stage, begin, end);
    struct hlm_share best = {.fits = false};
    double best_s = INFINITY;
    if (hopeless(v, &room, stage, begin, end)) {
        return best;
    }
    for (int32_t full = 0; full <= count; full++) {
        struct hlm_stage_shape shape = shape_of(v, stage, begin, end, full, 0);
        for (int32_t selective = 0; full + selective <= count; selective++) {
            if (selective > 0) {
                move_to_selective(v, &shape, begin + full + selective - 1);
            }
            const double backward_s = chosen_backward_s(v, &shape);
            if (backward_s < best_s && choice_allowed(v, count, full, selective) &&
                fits_room(v, &room, &shape)) {
                best_s = backward_s;
                best = (struct hlm_share){.fits = true, .full = full, .selective = selective};
            }
        }
    }
    if (best.fits) {
        const struct hlm_stage_shape shape =
            shape_of(v, stage, begin, end, best.full, best.selective);
        struct hlm_stage_cost cost;
        HLM_ASSERT(excess_bytes(v, &shape, &cost) <= 0);
        best.forward_s = cost.forward.seconds;
        best.backward_s = cost.backward.seconds;
        best.reduce_s = cost.reduce_s;
        best.optimizer_s = cost.optimizer_s;
    }
    return best;
}

/* Stages in the middle hold a layer at least. */
const struct hlm_share *hlm_share_get(struct hlm_verifier *v, int32_t stage, int32_t begin,
                                      int32_t end)
{
    static const struct hlm_share nothing = {.fits = false};
    const size_t num = (size_t)v->num_layers + 1;
    const int32_t from = v->one_kind ? 0 : begin;
    const size_t rows = v->one_kind ? 1 : num;
    if (begin == end && stage > 0 && stage < v->num_stages - 1) {
        return &nothing;
    }
    const struct hlm_share **at =
        &v->shares[((size_t)stage * rows + (size_t)from) * num + (size_t)(end - begin)];
    if (*at == NULL) {
        const struct hlm_share made = make_share(v, stage, from, from + end - begin);
        *at = hlm_arena_memdup(v->arena, &made, sizeof(made));
    }
    return *at;
}

/* Each stage in turn takes all that fits: what fits of a long stretch fits of a short one. */
bool hlm_share_something_fits(struct hlm_verifier *v)
{
    int32_t begin = 0;
    for (int32_t s = 0; s < v->num_stages; s++) {
        const bool middle = s > 0 && s < v->num_stages - 1;
        int32_t low = middle ? begin : begin - 1, high = v->num_layers + 1;
        while (low + 1 < high) {
            const int32_t end = low + (high - low) / 2;
            *(hlm_share_get(v, s, begin, end)->fits ? &low : &high) = end;
        }
        if (low < begin || (middle && low == begin && begin < v->num_layers)) {
            return false;
        }
        begin = low;
    }
    return begin == v->num_layers;
}
