/* The field tables of the kind "front". */
#include "planner/front.h"

#define ROW(type_name, member, json_type, text)                                                    \
    .name = #member, .type = (json_type), .offset = offsetof(struct type_name, member),            \
    .flags = HLM_FIELD_REQUIRED, .doc = (text)
#define NUMBER(type_name, member, text)                                                            \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_DOUBLE, text), .max = 1e300                                \
    }
#define TRUTH(type_name, member, text)                                                             \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_BOOL, text)                                                \
    }
#define OBJECT(type_name, member, fields_of, text)                                                 \
    {                                                                                              \
        ROW(type_name, member, HLM_JSON_OBJECT, text), .table = &(fields_of)                       \
    }

static const struct hlm_json_field point_fields[] = {
    {ROW(hlm_front_point, subcluster, HLM_JSON_INT, "subcluster of the offer that it takes"),
     .max = 1e6},
    OBJECT(hlm_front_point, strategy, hlm_strategy_table, "degrees and switches"),
    {ROW(hlm_front_point, stages, HLM_JSON_ARRAY,
         "placement of the layers; device_group: of the groups that the subcluster takes nodes of"),
     .count_offset = offsetof(struct hlm_front_point, num_stages), .min = 1, .max = 1e5,
     .table = &hlm_plan_stage_table},
    NUMBER(hlm_front_point, step_time_s, "seconds of one training step, simulated"),
    NUMBER(hlm_front_point, tokens_per_s, "tokens of the global batch per second"),
    NUMBER(hlm_front_point, cost_per_token, "in the currency of price_per_device_hour"),
    OBJECT(hlm_front_point, interval, hlm_plan_interval_table,
           "step time within the spread of the profile's fits"),
    NUMBER(hlm_front_point, gap_frac,
           "no plan on any subcluster is both faster and cheaper by more than this fraction"),
    TRUTH(hlm_front_point, within_uncertainty,
          "another point may be both faster and cheaper within the spread of the profile"),
    {0}};
static const struct hlm_json_table point_table = {"point", sizeof(struct hlm_front_point),
                                                  point_fields};

static const struct hlm_json_field front_fields[] = {
    OBJECT(hlm_front, model, hlm_model_table, "what is trained"),
    OBJECT(hlm_front, require, hlm_search_require_table, "what the search was restricted to"),
    TRUTH(hlm_front, runnable_only, "whether it left out what the executor does not run"),
    {ROW(hlm_front, max_gap_frac, HLM_JSON_DOUBLE, "the gap that was asked for"), .max = 1},
    NUMBER(hlm_front, gap_frac,
           "each plan on any subcluster is covered by a point to within this fraction in both"),
    NUMBER(hlm_front, least_step_s, "no plan on any subcluster is faster, seconds"),
    OBJECT(hlm_front, offer, hlm_plan_offer_table,
           "what could be rented, with the proof for each of its subclusters"),
    {ROW(hlm_front, points, HLM_JSON_ARRAY,
         "plans that none is both faster and cheaper than, "
         "fastest first"),
     .count_offset = offsetof(struct hlm_front, num_points), .min = 1, .max = 1e5,
     .table = &point_table},
    {.name = "meta",
     .type = HLM_JSON_OBJECT,
     .offset = offsetof(struct hlm_front, meta),
     .flags = HLM_FIELD_META,
     .table = &hlm_plan_meta_table,
     .doc = "what varies between equal runs"},
    {0}};
const struct hlm_json_table hlm_front_table = {"front", sizeof(struct hlm_front), front_fields};

enum hlm_status hlm_front_read_text(struct hlm_arena *arena, const char *name, const char *text,
                                    size_t length, const struct hlm_front **out,
                                    struct hlm_err *err)
{
    struct hlm_front *front = HLM_ARENA_NEW(arena, struct hlm_front);
    HLM_TRY(hlm_json_read_text(arena, name, text, length, &hlm_front_table, front, err));
    hlm_model_complete(&front->model);
    HLM_TRY(hlm_model_validate(&front->model, name, err));
    HLM_TRY(hlm_plan_offer_check(&front->offer, name, "$.offer", err));
    for (int32_t i = 0; i < front->num_points; i++) {
        if (front->points[i].subcluster >= front->offer.num_subclusters) {
            return hlm_fail(err, HLM_INPUT,
                            "%s: $.points[%d].subcluster: expected one below %d, found %d", name, i,
                            front->offer.num_subclusters, front->points[i].subcluster);
        }
    }
    *out = front;
    return HLM_OK;
}
