/* Schedules against tables computed by independent programs: PyTorch's and Megatron's orders, their
 * times for unit costs, peaks of live activations, latency laws and lowered texts. */
#include <stdlib.h>

#include "tests/support/pipeline.h"

/* A table of one schedule: a line per rank of "<action>" or "<action>@<start>" cells. */
struct table {
    const char *name;
    struct hlm_schedule_params params;
    const char *text;
    double forward_s, backward_s, input_grad_s, weight_grad_s;
    double makespan_s;
    int32_t peaks[4];
    double
        latency_factor; /* makespan grows by this many c with a small latency c; < 0: not given */
};

static const struct table tables[] = {
    {"1f1b 2x4",
     {HLM_SCHEDULE_1F1B, 2, 1, 4, 0},
     "0F0@0,0F1@1,0B0@4,0F2@6,0B1@7,0F3@9,0B2@10,0B3@13\n"
     "1F0@1,1B0@2,1F1@4,1B1@5,1F2@7,1B2@8,1F3@10,1B3@11\n",
     1,
     2,
     0,
     0,
     15,
     {2, 1},
     4},
    {"1f1b 4x8",
     {HLM_SCHEDULE_1F1B, 4, 1, 8, 0},
     "0F0@0,0F1@1,0F2@2,0F3@3,0B0@10,0F4@12,0B1@13,0F5@15,0B2@16,0F6@18,0B3@19,0F7@21,0B4@22,0B5@"
     "25,"
     "0B6@28,0B7@31\n"
     "1F0@1,1F1@2,1F2@3,1B0@8,1F3@10,1B1@11,1F4@13,1B2@14,1F5@16,1B3@17,1F6@19,1B4@20,1F7@22,1B5@"
     "23,"
     "1B6@26,1B7@29\n"
     "2F0@2,2F1@3,2B0@6,2F2@8,2B1@9,2F3@11,2B2@12,2F4@14,2B3@15,2F5@17,2B4@18,2F6@20,2B5@21,2F7@23,"
     "2B6@24,2B7@27\n"
     "3F0@3,3B0@4,3F1@6,3B1@7,3F2@9,3B2@10,3F3@12,3B3@13,3F4@15,3B4@16,3F5@18,3B5@19,3F6@21,3B6@22,"
     "3F7@24,3B7@25\n",
     1,
     2,
     0,
     0,
     33,
     {4, 3, 2, 1},
     16},
    {"interleaved 2x2x4",
     {HLM_SCHEDULE_INTERLEAVED, 2, 2, 4, 0},
     "0F0@0,0F1@1,2F0@2,2F1@3,0F2@4,2B0@6,0F3@8,2B1@9,2F2@11,0B0@12,2F3@14,0B1@15,2B2@18,2B3@21,"
     "0B2@23,0B3@25\n"
     "1F0@1,1F1@2,3F0@3,3B0@4,3F1@6,3B1@7,1F2@9,1B0@10,1F3@12,1B1@13,3F2@15,3B2@16,3F3@18,3B3@19,"
     "1B2@21,1B3@23\n",
     1,
     2,
     0,
     0,
     27,
     {5, 3},
     6},
    {"interleaved 4x2x8",
     {HLM_SCHEDULE_INTERLEAVED, 4, 2, 8, 0},
     "0F0,0F1,0F2,0F3,4F0,4F1,4F2,4F3,0F4,0F5,0F6,4B0,0F7,4B1,4F4,4B2,4F5,4B3,4F6,0B0,4F7,0B1,0B2,"
     "0B3,"
     "4B4,4B5,4B6,4B7,0B4,0B5,0B6,0B7\n"
     "1F0,1F1,1F2,1F3,5F0,5F1,5F2,5F3,1F4,5B0,1F5,5B1,1F6,5B2,1F7,5B3,5F4,1B0,5F5,1B1,5F6,1B2,5F7,"
     "1B3,"
     "5B4,5B5,5B6,5B7,1B4,1B5,1B6,1B7\n"
     "2F0,2F1,2F2,2F3,6F0,6F1,6F2,6B0,6F3,6B1,2F4,6B2,2F5,6B3,2F6,2B0,2F7,2B1,6F4,2B2,6F5,2B3,6F6,"
     "6B4,"
     "6F7,6B5,6B6,6B7,2B4,2B5,2B6,2B7\n"
     "3F0,3F1,3F2,3F3,7F0,7B0,7F1,7B1,7F2,7B2,7F3,7B3,3F4,3B0,3F5,3B1,3F6,3B2,3F7,3B3,7F4,7B4,7F5,"
     "7B5,"
     "7F6,7B6,7F7,7B7,3B4,3B5,3B6,3B7\n",
     1,
     2,
     0,
     0,
     57,
     {11, 9, 7, 5},
     14},
    {"interleaved 2x2x5 in groups of 3",
     {HLM_SCHEDULE_INTERLEAVED, 2, 2, 5, 3},
     "0F0,0F1,0F2,2F0,2F1,2F2,2B0,0F3,2B1,0F4,2B2,2F3,0B0,2F4,0B1,0B2,2B3,2B4,0B3,0B4\n"
     "1F0,1F1,1F2,3F0,3B0,3F1,3B1,3F2,3B2,1F3,1B0,1F4,1B1,3F3,1B2,3F4,3B3,3B4,1B3,1B4\n",
     1,
     2,
     0,
     0,
     33,
     {6, 4},
     -1},
    {"zb-h1 2x4",
     {HLM_SCHEDULE_ZB_H1, 2, 1, 4, 0},
     "0F0@0,0F1@1,0I0@3,0W0@4,0F2@5,0I1@6,0W1@7,0F3@8,0I2@9,0W2@10,0I3@11,0W3@12\n"
     "1F0@1,1I0@2,1F1@3,1I1@4,1W0@5,1F2@6,1I2@7,1W1@8,1F3@9,1I3@10,1W2@11,1W3@12\n",
     1,
     0,
     1,
     1,
     13,
     {2, 2},
     4},
    {"zb-h1 4x8",
     {HLM_SCHEDULE_ZB_H1, 4, 1, 8, 0},
     "0F0,0F1,0F2,0F3,0I0,0W0,0F4,0I1,0W1,0F5,0I2,0W2,0F6,0I3,0W3,0F7,0I4,0W4,0I5,0W5,0I6,0W6,0I7,"
     "0W7\n"
     "1F0,1F1,1F2,1I0,1F3,1I1,1W0,1F4,1I2,1W1,1F5,1I3,1W2,1F6,1I4,1W3,1F7,1I5,1W4,1I6,1W5,1I7,1W6,"
     "1W7\n"
     "2F0,2F1,2I0,2F2,2I1,2F3,2I2,2W0,2F4,2I3,2W1,2F5,2I4,2W2,2F6,2I5,2W3,2F7,2I6,2W4,2I7,2W5,2W6,"
     "2W7\n"
     "3F0,3I0,3F1,3I1,3F2,3I2,3F3,3I3,3W0,3F4,3I4,3W1,3F5,3I5,3W2,3F6,3I6,3W3,3F7,3I7,3W4,3W5,3W6,"
     "3W7\n",
     1,
     0,
     1,
     1,
     27,
     {4, 4, 4, 4},
     12},
    {"zb-h1 4x8, F = I = 3, W = 2",
     {HLM_SCHEDULE_ZB_H1, 4, 1, 8, 0},
     "0F0,0F1,0F2,0F3,0I0,0W0,0F4,0I1,0W1,0F5,0I2,0W2,0F6,0I3,0W3,0F7,0I4,0W4,0I5,0W5,0I6,0W6,0I7,"
     "0W7\n"
     "1F0,1F1,1F2,1I0,1F3,1I1,1W0,1F4,1I2,1W1,1F5,1I3,1W2,1F6,1I4,1W3,1F7,1I5,1W4,1I6,1W5,1I7,1W6,"
     "1W7\n"
     "2F0,2F1,2I0,2F2,2I1,2F3,2I2,2W0,2F4,2I3,2W1,2F5,2I4,2W2,2F6,2I5,2W3,2F7,2I6,2W4,2I7,2W5,2W6,"
     "2W7\n"
     "3F0,3I0,3F1,3I1,3F2,3I2,3F3,3I3,3W0,3F4,3I4,3W1,3F5,3I5,3W2,3F6,3I6,3W3,3F7,3I7,3W4,3W5,3W6,"
     "3W7\n",
     3,
     0,
     3,
     2,
     76,
     {4, 4, 4, 4},
     -1},
    {"zb-v 2x4",
     {HLM_SCHEDULE_ZB_V, 2, 2, 4, 0},
     "0F0@0,0F1@1,0F2@2,3F0@3,3I0@4,3W0@5,3F1@6,3I1@7,3W1@8,0F3@9,0I0@10,0W0@11,3F2@12,3I2@13,3W2@"
     "14,"
     "0I1@15,0W1@16,3F3@17,3I3@18,3W3@19,0I2@20,0W2@21,0I3@22,0W3@23\n"
     "1F0@1,2F0@2,1F1@3,2F1@4,2I0@5,2W0@6,1F2@7,1I0@8,1W0@9,2F2@10,2I1@11,2W1@12,1F3@13,1I1@14,"
     "1W1@15,2F3@16,2I2@17,2W2@18,1I2@19,2I3@20,1I3@21,1W2@22,2W3@23,1W3@24\n",
     1,
     0,
     1,
     1,
     25,
     {4, 4},
     -1},
    {"dualpipe-v 2x4",
     {HLM_SCHEDULE_DUALPIPE_V, 2, 2, 4, 0},
     "0F0,0F1,0F2,3F0,3I0,3W0,3F1,(0F3;3B1)OVERLAP_F_B,(3F2;0B0)OVERLAP_F_B,3B2,"
     "(3F3;0B1)OVERLAP_F_B,3B3,0I2,0W2,0I3,0W3\n"
     "1F0,2F0,1F1,2F1,1F2,2B0,(2F2;1B0)OVERLAP_F_B,(1F3;2B1)OVERLAP_F_B,(2F3;1B1)OVERLAP_F_B,2B2,"
     "1B2,2I3,1I3,2W3,1W3\n",
     1,
     2,
     1,
     1,
     26,
     {5, 5},
     -1},
};

/* The table without its times, as a CSV. */
static char *strip_times(struct hlm_arena *arena, const char *text)
{
    char *csv = hlm_arena_strdup(arena, text);
    char *to = csv;
    for (const char *from = text; *from != '\0';) {
        if (*from == '@') {
            from += strcspn(from, ",\n");
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
    return csv;
}

static void check_starts(const struct table *table, const struct hlm_sim_result *result)
{
    const char *text = table->text;
    int32_t rank = 0, index = 0;
    for (const char *cell = text; *cell != '\0';) {
        const size_t length = strcspn(cell, ",\n");
        const char *time = memchr(cell, '@', length);
        const struct hlm_sim_event *event = &result->ranks[rank].events[index++];
        char name[64];
        if (event->overlapped.kind == HLM_NUM_ACTIONS) {
            hlm_action_format(event->action, name);
        } else {
            hlm_action_format_pair(event->action, event->overlapped, name);
        }
        if (strncmp(name, cell, strlen(name)) != 0) {
            fail_msg("%s: rank %d ran %s, expected %.8s", table->name, rank, name, cell);
        }
        if (time != NULL && event->start_s != strtod(time + 1, NULL)) {
            fail_msg("%s: %s starts at %g, expected %.8s", table->name, name, event->start_s, cell);
        }
        if (cell[length] == '\n') {
            rank++;
            index = 0;
        }
        cell += length + 1;
    }
}

static struct hlm_sim_costs costs_of(struct hlm_arena *arena, const struct table *table,
                                     int32_t num_stages, double c)
{
    struct hlm_sim_costs costs =
        pipeline_costs(arena, num_stages, table->forward_s, table->backward_s, c);
    costs.input_grad_s = pipeline_fill(arena, num_stages, table->input_grad_s);
    costs.weight_grad_s = pipeline_fill(arena, num_stages, table->weight_grad_s);
    return costs;
}

static void check_peaks(struct hlm_arena *arena, const struct table *table,
                        const struct hlm_schedule *schedule, const struct hlm_sim_costs *costs)
{
    const size_t num_stages = (size_t)schedule->num_stages;
    int64_t *ones = HLM_ARENA_ARRAY(arena, int64_t, num_stages);
    for (size_t i = 0; i < num_stages; i++) {
        ones[i] = 1;
    }
    const int64_t *zeros = HLM_ARENA_ARRAY(arena, int64_t, num_stages);
    const struct hlm_sim_memory memory = {
        .static_bytes = zeros, .activation_bytes = ones, .transient_bytes = zeros};
    struct hlm_sim_result result = {0};
    struct hlm_err err = {0};
    check_ok(hlm_simulate(arena, schedule, costs, &memory, false, &result, &err), &err);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        if (result.ranks[rank].peak_bytes != table->peaks[rank]) {
            fail_msg("%s: peak of rank %d is %d, expected %d", table->name, rank,
                     (int)result.ranks[rank].peak_bytes, table->peaks[rank]);
        }
    }
}

static void test_tables(void **state)
{
    struct hlm_arena *arena = *state;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        const struct table *table = &tables[i];
        const struct hlm_schedule *schedule =
            pipeline_from_csv(arena, strip_times(arena, table->text));
        const struct hlm_sim_costs costs = costs_of(arena, table, schedule->num_stages, 0);
        const struct hlm_sim_result result = pipeline_run(arena, schedule, &costs);
        if (result.pipeline_s != table->makespan_s) {
            fail_msg("%s: makespan %g, expected %g", table->name, result.pipeline_s,
                     table->makespan_s);
        }
        assert_true(result.step_s == table->makespan_s);
        check_starts(table, &result);
        check_peaks(arena, table, schedule, &costs);
        if (table->latency_factor >= 0) {
            const double c = 1.0 / 64;
            const struct hlm_sim_costs late = costs_of(arena, table, schedule->num_stages, c);
            const double added =
                pipeline_run(arena, schedule, &late).pipeline_s - result.pipeline_s;
            if (added != table->latency_factor * c) {
                fail_msg("%s: latency adds %g c, expected %g c", table->name, added / c,
                         table->latency_factor);
            }
        }
    }
}

/* Our builders make the tables, and the reader knows them again. */
static void test_builders_equal_tables(void **state)
{
    struct hlm_arena *arena = *state;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        const struct hlm_schedule *built = pipeline_build_with(arena, tables[i].params);
        const char *text = strip_times(arena, tables[i].text);
        assert_string_equal(hlm_schedule_csv(arena, built), text);
        const struct hlm_schedule *read = pipeline_from_csv(arena, text);
        assert_int_equal(read->kind, tables[i].params.kind);
        assert_memory_equal(read->stage_rank, built->stage_rank,
                            (size_t)read->num_stages * sizeof(int32_t));
    }
}

/* Megatron's own example: two ranks of two chunks, five microbatches in groups of three; chunks
 * from 1, backwards negative. */
static void test_megatron_order(void **state)
{
    static const int chunks[20] = {1,  1, 1,  2, 2,  2,  -2, 1,  -2, 1,
                                   -2, 2, -1, 2, -1, -1, -2, -2, -1, -1};
    static const int microbatches[10] = {0, 1, 2, 0, 1, 2, 3, 4, 3, 4};
    const struct hlm_schedule *schedule = pipeline_build_with(
        *state, (struct hlm_schedule_params){HLM_SCHEDULE_INTERLEAVED, 2, 2, 5, 3});
    const struct hlm_rank_actions *list = &schedule->ranks[0];
    int num_forwards = 0, num_backwards = 0;
    for (int32_t i = 0; i < 20; i++) {
        const struct hlm_action action = list->actions[i];
        const bool forward = action.kind == HLM_ACTION_F;
        assert_int_equal(action.stage / 2 + 1, forward ? chunks[i] : -chunks[i]);
        assert_int_equal(action.microbatch,
                         microbatches[forward ? num_forwards++ : num_backwards++]);
    }
}

/* I + W = B. */
static struct hlm_sim_costs split_costs(struct hlm_arena *arena, int32_t num_stages, double f,
                                        double i, double w, double c)
{
    struct hlm_sim_costs costs = pipeline_costs(arena, num_stages, f, i + w, c);
    costs.input_grad_s = pipeline_fill(arena, num_stages, i);
    costs.weight_grad_s = pipeline_fill(arena, num_stages, w);
    return costs;
}

static double makespan(struct hlm_arena *arena, enum hlm_schedule_kind kind, int32_t p, int32_t m,
                       double f, double b, double c)
{
    const struct hlm_schedule *schedule = pipeline_build(arena, kind, p, m);
    const struct hlm_sim_costs costs = split_costs(arena, schedule->num_stages, f, b / 2, b / 2, c);
    return pipeline_run(arena, schedule, &costs).pipeline_s;
}

/* Makespan (M + P - 1)(F + B), idle (P - 1)(F + B) on every rank. */
static void test_closed_form(void **state)
{
    struct hlm_arena *arena = *state;
    const int32_t sizes[][2] = {{1, 1}, {1, 7},  {2, 1}, {2, 4},  {4, 3},
                                {4, 8}, {8, 16}, {8, 4}, {16, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const int32_t p = sizes[i][0], m = sizes[i][1];
        for (enum hlm_schedule_kind kind = 0; kind <= HLM_SCHEDULE_1F1B; kind++) {
            const struct hlm_sim_costs costs = pipeline_costs(arena, p, 3, 5, 0);
            const struct hlm_sim_result result =
                pipeline_run(arena, pipeline_build(arena, kind, p, m), &costs);
            assert_true(result.pipeline_s == (m + p - 1) * 8);
            for (int32_t rank = 0; rank < p; rank++) {
                assert_true(result.pipeline_s - result.ranks[rank].busy_s == (p - 1) * 8);
                assert_true(result.ranks[rank].first_start_s == rank * 3);
            }
        }
    }
    assert_true(makespan(arena, HLM_SCHEDULE_1F1B, 8, 16, 1, 2, 0) == 69);
    assert_true(makespan(arena, HLM_SCHEDULE_1F1B, 4, 8, 3, 5, 0) == 88);
    assert_true(makespan(arena, HLM_SCHEDULE_GPIPE, 4, 8, 3, 5, 0) == 88);
}

/* Makespans of the other kinds, per chunk F, I, W, and of a pair. */
static void test_more_makespans(void **state)
{
    struct hlm_arena *arena = *state;
    const struct {
        struct hlm_schedule_params params;
        double f, i, w, overlap, expected;
    } rows[] = {
        {{HLM_SCHEDULE_ZB_H1, 8, 1, 16, 0}, 1, 1, 1, 3, 55},
        {{HLM_SCHEDULE_INTERLEAVED, 4, 4, 8, 0}, 1, 1, 1, 3, 105},
        {{HLM_SCHEDULE_ZB_V, 4, 2, 8, 0}, 1, 1, 1, 3, 51},
        {{HLM_SCHEDULE_DUALPIPE_V, 4, 2, 8, 0}, 1, 1, 1, 3, 54},
        {{HLM_SCHEDULE_DUALPIPE_V, 4, 2, 10, 0}, 1, 1, 1, 3, 66},
        {{HLM_SCHEDULE_INTERLEAVED, 4, 2, 8, 0}, 3, 3, 2, 8, 152},
        {{HLM_SCHEDULE_ZB_H1, 4, 1, 8, 0}, 3, 3, 2, 8, 76},
        {{HLM_SCHEDULE_ZB_V, 4, 2, 8, 0}, 3, 3, 2, 8, 137},
        {{HLM_SCHEDULE_DUALPIPE_V, 4, 2, 8, 0}, 3, 3, 2, 8, 149},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_schedule *schedule = pipeline_build_with(arena, rows[i].params);
        struct hlm_sim_costs costs =
            split_costs(arena, schedule->num_stages, rows[i].f, rows[i].i, rows[i].w, 0);
        costs.overlap_s = pipeline_fill(arena, schedule->num_stages, rows[i].overlap);
        const double found = pipeline_run(arena, schedule, &costs).pipeline_s;
        if (found != rows[i].expected) {
            fail_msg("row %zu: makespan %g, expected %g", i, found, rows[i].expected);
        }
    }
}

/* On buffered links, GPipe pays 2 (P - 1) c whatever M; 1F1B pays 2 c (P - 1) / P more per
 * microbatch. */
static void test_latency_laws(void **state)
{
    struct hlm_arena *arena = *state;
    const double c = 1.0 / 64;
    const struct {
        enum hlm_schedule_kind kind;
        int32_t p, m;
        double factor;
    } laws[] = {{HLM_SCHEDULE_1F1B, 4, 8, 16},  {HLM_SCHEDULE_1F1B, 4, 16, 28},
                {HLM_SCHEDULE_1F1B, 2, 4, 4},   {HLM_SCHEDULE_1F1B, 2, 8, 8},
                {HLM_SCHEDULE_GPIPE, 2, 4, 2},  {HLM_SCHEDULE_GPIPE, 4, 8, 6},
                {HLM_SCHEDULE_GPIPE, 4, 64, 6}, {HLM_SCHEDULE_GPIPE, 8, 16, 14}};
    for (size_t i = 0; i < sizeof laws / sizeof laws[0]; i++) {
        const double added = makespan(arena, laws[i].kind, laws[i].p, laws[i].m, 1, 2, c) -
                             makespan(arena, laws[i].kind, laws[i].p, laws[i].m, 1, 2, 0);
        assert_true(added == laws[i].factor * c);
    }
}

/* DualPipe-V idles (P - 1) (F&B + B - 3 W): on every rank when a pair takes F + B; when it takes
 * less on the last rank, while the ranks before it idle less. */
static void test_dualpipe_v_idle(void **state)
{
    struct hlm_arena *arena = *state;
    const double overlaps[] = {3, 2.75, 2.5};
    for (int32_t p = 1; p <= 8; p++) {
        for (int32_t m = 2 * p; m <= 2 * p + 5; m++) {
            for (size_t i = 0; i < sizeof overlaps / sizeof overlaps[0]; i++) {
                const struct hlm_schedule *schedule =
                    pipeline_build(arena, HLM_SCHEDULE_DUALPIPE_V, p, m);
                struct hlm_sim_costs costs = split_costs(arena, 2 * p, 1, 1, 1, 0);
                costs.overlap_s = pipeline_fill(arena, 2 * p, overlaps[i]);
                const struct hlm_sim_result result = pipeline_run(arena, schedule, &costs);
                const double idle = (p - 1) * (overlaps[i] + 2 - 3);
                for (int32_t rank = 0; rank < p; rank++) {
                    const double mine = result.pipeline_s - result.ranks[rank].busy_s;
                    const bool is_exact = i == 0 || rank == p - 1;
                    assert_true(is_exact ? mine == idle : mine <= idle);
                    assert_int_equal(hlm_schedule_memory(arena, schedule, NULL)[rank].peak,
                                     2 * p + 1);
                }
            }
        }
    }
}

/* Latencies that 1F1B with doubled warm-up hides: with c <= (F + B) / 2 it pays for the way down
 * and up alone, 2 (P - 1) c, whatever M. */
static void test_overlap_hides_latency(void **state)
{
    struct hlm_arena *arena = *state;
    for (int32_t p = 1; p <= 6; p++) {
        for (int32_t m = 1; m <= 40; m += 3) {
            const double hidden = makespan(arena, HLM_SCHEDULE_1F1B_OVERLAP, p, m, 1, 2, 1.5);
            assert_true(hidden == 3 * (m + p - 1) + 2 * (p - 1) * 1.5);
            assert_true(hidden <= makespan(arena, HLM_SCHEDULE_1F1B, p, m, 1, 2, 1.5));
        }
    }
    assert_true(makespan(arena, HLM_SCHEDULE_1F1B_OVERLAP, 4, 40, 1, 2, 1.75) >
                3 * 43 + 2 * 3 * 1.75);
}

static double idle_of(const struct hlm_sim_result *result, int32_t rank)
{
    const struct hlm_sim_rank *mine = &result->ranks[rank];
    return mine->compute_end_s - mine->first_start_s - mine->busy_s;
}

/* F = I = W: no rank idles between its first and last action, with the memory that is claimed. */
static void test_zero_bubble(void **state)
{
    struct hlm_arena *arena = *state;
    for (int32_t p = 1; p <= 9; p++) {
        for (int32_t m = 2 * p - 1; m <= 3 * p; m++) {
            const struct hlm_schedule *const schedules[2] = {
                pipeline_build(arena, HLM_SCHEDULE_ZB_H2, p, m),
                pipeline_build(arena, HLM_SCHEDULE_ZB_V, p, m)};
            const int64_t peaks[2] = {2 * p - 1, 2 * p};
            for (int i = 0; i < 2; i++) {
                const struct hlm_sim_costs costs =
                    split_costs(arena, schedules[i]->num_stages, 1, 1, 1, 0);
                const struct hlm_sim_result result = pipeline_run(arena, schedules[i], &costs);
                for (int32_t rank = 0; rank < p; rank++) {
                    assert_true(idle_of(&result, rank) == 0);
                    assert_true(hlm_schedule_memory(arena, schedules[i], NULL)[rank].peak <=
                                peaks[i]);
                }
                assert_true(result.pipeline_s == (i + 1) * 3 * m + p - 1);
            }
        }
    }
}

/* The claims of "Pipeline Parallelism with Controllable Memory" for F = I = W: bubble x / 2 and
 * 2 x / 3 with x = 6 (p - 1), that of 1F1B in units of a chunk's action; activations about 1 / 2
 * and 1 / 3 of the 2 p chunks of 1F1B. What our construction gives, whatever the number of
 * microbatches: */
static void test_controllable_memory(void **state)
{
    struct hlm_arena *arena = *state;
    for (int32_t p = 2; p <= 24; p++) {
        const double x = 6 * (p - 1);
        const struct {
            enum hlm_schedule_kind kind;
            double idle, claimed;
            int64_t peak;
        } rows[] = {
            {HLM_SCHEDULE_V_HALF, p % 2 == 0 ? 3 * p - 7 : 3 * p - 4, x / 2, 2 * (p / 2) + 2},
            {HLM_SCHEDULE_V_MIN, 4 * p - 5 - (p == 3 ? 2 : 0), 2 * x / 3, 2 * ((p - 2) / 3) + 4}};
        for (size_t i = 0; i < 2; i++) {
            for (int32_t m = p; m <= 4 * p; m += p) {
                const struct hlm_schedule *schedule = pipeline_build(arena, rows[i].kind, p, m);
                const struct hlm_sim_costs costs = split_costs(arena, 2 * p, 1, 1, 1, 0);
                const struct hlm_sim_result result = pipeline_run(arena, schedule, &costs);
                const double idle = result.pipeline_s - 6 * m;
                int64_t peak = 0;
                for (int32_t rank = 0; rank < p; rank++) {
                    const int64_t mine = hlm_schedule_memory(arena, schedule, NULL)[rank].peak;
                    peak = mine > peak ? mine : peak;
                }
                const bool is_tiny = p == 2 && (rows[i].kind == HLM_SCHEDULE_V_HALF || m == 2);
                const double expected = is_tiny ? 1 : rows[i].idle;
                if (idle != expected || peak != rows[i].peak || idle > rows[i].claimed) {
                    fail_msg("%s p %d m %d: idle %g, expected %g <= %g; peak %d, expected %d",
                             hlm_schedule_texts[rows[i].kind], p, m, idle, expected,
                             rows[i].claimed, (int)peak, (int)rows[i].peak);
                }
            }
        }
    }
}

/* GPipe with unequal stages and latencies: sum F + (m-1) max F + sum B + (m-1) max B + 2 sum c. */
static void test_gpipe_unequal(void **state)
{
    struct hlm_arena *arena = *state;
    enum { P = 5, M = 9 };
    const double f[P] = {1, 3, 2, 2.5, 0.5}, b[P] = {2, 5, 4, 7, 1},
                 c[P] = {0.25, 0.5, 0.125, 1, 0};
    const double back[P] = {0, 0.25, 0.5, 0.125, 1};
    const struct hlm_sim_costs costs = {
        .forward_s = f, .backward_s = b, .send_forward_s = c, .send_backward_s = back};
    const struct hlm_sim_result result =
        pipeline_run(arena, pipeline_build(arena, HLM_SCHEDULE_GPIPE, P, M), &costs);
    check_close(result.pipeline_s, 9 + (M - 1) * 3 + 19 + (M - 1) * 7 + 2 * 1.875, 1e-15);
}

/* Messages that need both sides: the figures of a walk that agrees with SimGrid's replay. */
static void test_both_sides(void **state)
{
    struct hlm_arena *arena = *state;
    const double c = 4194304 / 10e9 + 10e-6;
    const struct {
        int32_t p;
        double seconds;
    } rows[] = {{8, 1.202207}, {64, 2.930304}, {256, 8.855206}};
    for (size_t i = 0; i < 3; i++) {
        struct hlm_sim_costs costs = pipeline_costs(arena, rows[i].p, 10e-3, 20e-3, c);
        costs.needs_both_sides = pipeline_both_sides(arena, rows[i].p);
        const struct hlm_schedule *schedule =
            pipeline_build(arena, HLM_SCHEDULE_1F1B, rows[i].p, 32);
        check_close(pipeline_run(arena, schedule, &costs).step_s, rows[i].seconds, 1e-6);
        check_close(hlm_simulate_step(arena, HLM_SCHEDULE_1F1B, rows[i].p, 32, &costs),
                    rows[i].seconds, 1e-6);
    }
}

/* ---- lowering ---- */

static void test_lowered_text(void **state)
{
    struct hlm_arena *arena = *state;
    const struct hlm_schedule *lowered =
        hlm_schedule_lower(arena, pipeline_build(arena, HLM_SCHEDULE_1F1B, 2, 4));
    assert_string_equal(pipeline_text(arena, lowered, 0),
                        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0F2,0SEND_F2,0RECV_B1,0B1,0F3,"
                        "0SEND_F3,0RECV_B2,0B2,0RECV_B3,0B3");
    assert_string_equal(pipeline_text(arena, lowered, 1),
                        "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1RECV_F2,1B1,1SEND_B1,1F2,"
                        "1RECV_F3,1B2,1SEND_B2,1F3,1B3,1SEND_B3");
}

/* "Receive just before use, send right behind" deadlocks where the tables say so; the lowered order
 * of the same schedules does not. */
static void test_deadlocks(void **state)
{
    struct hlm_arena *arena = *state;
    const struct {
        size_t table;
        const char *blocked;
    } rows[] = {
        {0, "rank 0 at 0SEND_F1, rank 1 at 1SEND_B0"},
        {1, "rank 0 at 0SEND_F3, rank 1 at 1SEND_F2, rank 2 at 2SEND_F1, rank 3 at 3SEND_B0"},
        {2, "rank 0 at 0SEND_F1, rank 1 at 1SEND_F0"},
        {6, "rank 0 at 0SEND_F3, rank 1 at 1SEND_F2, rank 2 at 2SEND_F1, rank 3 at 3SEND_B0"}};
    struct hlm_err err = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct hlm_schedule *schedule =
            pipeline_from_csv(arena, strip_times(arena, tables[rows[i].table].text));
        check_fails(hlm_schedule_rendezvous(arena, pipeline_lower_naively(arena, schedule), &err),
                    HLM_FAILED, &err, rows[i].blocked);
        assert_string_equal(err.text + strlen("deadlock under strict rendezvous: "),
                            rows[i].blocked);
    }
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        const struct hlm_schedule *lowered =
            hlm_schedule_lower(arena, pipeline_from_csv(arena, strip_times(arena, tables[i].text)));
        hlm_schedule_check(lowered);
        check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
    }
    const struct hlm_schedule *gpipe = pipeline_build(arena, HLM_SCHEDULE_GPIPE, 4, 8);
    check_ok(hlm_schedule_rendezvous(arena, pipeline_lower_naively(arena, gpipe), &err), &err);
}

static void test_lowered_orders_pass(void **state)
{
    struct hlm_arena *arena = *state;
    struct hlm_err err = {0};
    for (enum hlm_schedule_kind kind = 0; kind < HLM_NUM_SCHEDULES; kind++) {
        for (int32_t p = 1; p <= 8; p++) {
            for (int32_t m = 1; m <= 16; m++) {
                const struct hlm_schedule *schedule = pipeline_try(arena, kind, p, m);
                if (schedule == NULL) {
                    continue;
                }
                const struct hlm_schedule *lowered = hlm_schedule_lower(arena, schedule);
                hlm_schedule_check(lowered);
                check_ok(hlm_schedule_rendezvous(arena, lowered, &err), &err);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        pipeline_test(test_tables),
        pipeline_test(test_builders_equal_tables),
        pipeline_test(test_megatron_order),
        pipeline_test(test_closed_form),
        pipeline_test(test_more_makespans),
        pipeline_test(test_latency_laws),
        pipeline_test(test_dualpipe_v_idle),
        pipeline_test(test_overlap_hides_latency),
        pipeline_test(test_zero_bubble),
        pipeline_test(test_controllable_memory),
        pipeline_test(test_gpipe_unequal),
        pipeline_test(test_both_sides),
        pipeline_test(test_lowered_text),
        pipeline_test(test_deadlocks),
        pipeline_test(test_lowered_orders_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
