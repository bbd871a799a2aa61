#include <string.h>

#include "schedule/timeline.h"

/* ---- writers ---- */

const char *hlm_schedule_csv(struct hlm_arena *arena, const struct hlm_schedule *schedule)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    for (int32_t rank = 0; rank < schedule->num_ranks; rank++) {
        const struct hlm_rank_actions *list = &schedule->ranks[rank];
        const char *separator = "";
        for (int32_t i = 0; i < list->num_actions; i++) {
            const struct hlm_action *action = &list->actions[i];
            char name[64];
            if (action->kind == HLM_ACTION_OVERLAP_F_B) {
                hlm_action_format_pair(action[1], action[2], name);
                i += 2;
            } else if (hlm_action_is_compute(action->kind)) {
                hlm_action_format(*action, name);
            } else {
                continue;
            }
            hlm_text_printf(&text, "%s%s", separator, name);
            separator = ",";
        }
        hlm_text_add(&text, "\n", 1);
    }
    return text.text;
}

static void add_number(struct hlm_text *text, bool known, int32_t value)
{
    if (known) {
        hlm_text_printf(text, "%d", value);
    }
    hlm_text_add(text, ",", 1);
}

static void add_times(struct hlm_text *text, const struct hlm_timeline_event *event)
{
    char start[32], end[32];
    hlm_json_format_double(event->start_s, start);
    hlm_json_format_double(event->end_s, end);
    hlm_text_printf(text, "%s,%s\n", start, end);
}

const char *hlm_timeline_csv(struct hlm_arena *arena, const struct hlm_timeline *timeline)
{
    struct hlm_text text;
    hlm_text_init(&text, arena);
    hlm_text_printf(&text, "source,rank,action,stage,microbatch,start_s,end_s\n");
    for (int32_t rank = 0; rank < timeline->num_ranks; rank++) {
        const struct hlm_timeline_rank *row = &timeline->ranks[rank];
        for (int32_t i = 0; i < row->num_events; i++) {
            struct hlm_action action = {.stage = -1, .microbatch = -1}, backward;
            struct hlm_err ignored;
            const bool known =
                hlm_action_parse(row->events[i].action, &action, &ignored) == HLM_OK ||
                hlm_action_parse_pair(row->events[i].action, &action, &backward);
            hlm_text_printf(&text, "%s,%d,%s,", timeline->source, row->rank, row->events[i].action);
            add_number(&text, known, action.stage);
            add_number(&text, known && action.microbatch >= 0, action.microbatch);
            add_times(&text, &row->events[i]);
        }
    }
    return text.text;
}

/* ---- the reader ---- */

struct reader {
    struct hlm_arena *arena;
    const char *name;
    const char *text;
    size_t length;
    struct hlm_action *actions; /* of all lines, one behind the other */
    size_t num_actions;
    struct hlm_rank_actions *ranks;
    int32_t num_ranks;
    struct hlm_err *err;
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* Appends the action of a cell, or the three of a pair. */
static bool read_action(struct reader *reader, const char *cell)
{
    struct hlm_action *next = &reader->actions[reader->num_actions];
    struct hlm_err ignored;
    if (hlm_action_parse_pair(cell, &next[1], &next[2])) {
        next[0] = (struct hlm_action){HLM_ACTION_OVERLAP_F_B, next[1].stage, -1};
        reader->num_actions += 3;
        return true;
    }
    struct hlm_action action;
    if (hlm_action_parse(cell, &action, &ignored) != HLM_OK ||
        !hlm_action_is_compute(action.kind)) {
        return false;
    }
    next[0] = action;
    reader->num_actions++;
    return true;
}

/* One cell, text[begin, end): an action, or nothing. line and column count from 1. */
static enum hlm_status read_cell(struct reader *reader, size_t begin, size_t end, int32_t line,
                                 size_t column)
{
    while (begin < end && is_blank(reader->text[begin])) {
        begin++;
        column++;
    }
    while (end > begin && is_blank(reader->text[end - 1])) {
        end--;
    }
    if (begin == end) {
        return HLM_OK;
    }
    char cell[64] = {0};
    const size_t length = end - begin < sizeof cell - 1 ? end - begin : sizeof cell - 1;
    memcpy(cell, reader->text + begin, length);
    const bool is_whole = strlen(cell) == end - begin; /* no zero byte, not cut */
    if (!is_whole || !read_action(reader, cell)) {
        return hlm_fail(reader->err, HLM_INPUT,
                        "%s:%d:%zu: expected a compute action such as 0F3, 2B0, 1I4, 1W4 or "
                        "(0F3;3B1)OVERLAP_F_B, found \"%.47s\"",
                        reader->name, line, column, cell);
    }
    return HLM_OK;
}

static enum hlm_status read_line(struct reader *reader, size_t begin, size_t end, int32_t line)
{
    size_t cell = begin;
    while (cell <= end) {
        const char *comma = memchr(reader->text + cell, ',', end - cell);
        const size_t cell_end = comma == NULL ? end : (size_t)(comma - reader->text);
        HLM_TRY(read_cell(reader, cell, cell_end, line, cell - begin + 1));
        cell = cell_end + 1;
    }
    return HLM_OK;
}

static size_t count_bytes(const char *text, size_t length, char byte)
{
    size_t count = 0;
    for (size_t i = 0; i < length; i++) {
        count += text[i] == byte;
    }
    return count;
}

/* Every line with an action is a rank; lines without one may only stand at the end. */
static enum hlm_status read_lines(struct reader *reader)
{
    size_t begin = 0;
    int32_t line = 1;
    while (begin < reader->length) {
        const char *newline = memchr(reader->text + begin, '\n', reader->length - begin);
        const size_t end = newline == NULL ? reader->length : (size_t)(newline - reader->text);
        struct hlm_rank_actions *rank = &reader->ranks[line - 1];
        const size_t first = reader->num_actions;
        rank->actions = reader->actions + first;
        HLM_TRY(read_line(reader, begin, end, line));
        rank->num_actions = (int32_t)(reader->num_actions - first);
        if (rank->num_actions > 0 && reader->num_ranks != line - 1) {
            return hlm_fail(reader->err, HLM_INPUT, "%s:%d:1: expected a rank with an action",
                            reader->name, reader->num_ranks + 1);
        }
        reader->num_ranks += rank->num_actions > 0;
        begin = end + 1;
        line++;
    }
    if (reader->num_ranks == 0) {
        return hlm_fail(reader->err, HLM_INPUT,
                        "%s: expected a line of actions per rank, found none", reader->name);
    }
    return HLM_OK;
}

/* Stages and microbatches are numbered without gaps, so there is a forward for each pair: without
 * this check, "0F0,999999999F999999999" would ask for tables of that size. */
static enum hlm_status measure(const struct reader *reader, struct hlm_schedule *schedule)
{
    size_t num_forwards = 0;
    for (size_t i = 0; i < reader->num_actions; i++) {
        const struct hlm_action action = reader->actions[i];
        schedule->num_stages =
            action.stage >= schedule->num_stages ? action.stage + 1 : schedule->num_stages;
        schedule->num_microbatches = action.microbatch >= schedule->num_microbatches
                                         ? action.microbatch + 1
                                         : schedule->num_microbatches;
        num_forwards += action.kind == HLM_ACTION_F;
    }
    if (num_forwards != (size_t)schedule->num_stages * (size_t)schedule->num_microbatches) {
        return hlm_fail(reader->err, HLM_INPUT,
                        "%s: expected a forward for each of stages 0..%d and microbatches 0..%d, "
                        "found %zu forwards",
                        reader->name, schedule->num_stages - 1, schedule->num_microbatches - 1,
                        num_forwards);
    }
    return HLM_OK;
}

static const int32_t *place_stages(const struct reader *reader, int32_t num_stages)
{
    int32_t *stage_rank = HLM_ARENA_ARRAY(reader->arena, int32_t, num_stages);
    for (int32_t rank = reader->num_ranks - 1; rank >= 0; rank--) {
        for (int32_t i = 0; i < reader->ranks[rank].num_actions; i++) {
            stage_rank[reader->ranks[rank].actions[i].stage] = rank;
        }
    }
    return stage_rank;
}

static bool same_lists(const struct hlm_schedule *a, const struct hlm_schedule *b)
{
    for (int32_t rank = 0; rank < a->num_ranks; rank++) {
        const struct hlm_rank_actions *x = &a->ranks[rank], *y = &b->ranks[rank];
        if (x->num_actions != y->num_actions) {
            return false;
        }
        for (int32_t i = 0; i < x->num_actions; i++) {
            if (x->actions[i].kind != y->actions[i].kind ||
                x->actions[i].stage != y->actions[i].stage ||
                x->actions[i].microbatch != y->actions[i].microbatch) {
                return false;
            }
        }
    }
    return true;
}

/* Interleaved lists begin with a group of forwards of one stage. */
static int32_t leading_forwards(const struct hlm_rank_actions *list)
{
    int32_t count = 0;
    while (count < list->num_actions && list->actions[count].kind == HLM_ACTION_F &&
           list->actions[count].stage == list->actions[0].stage) {
        count++;
    }
    return count;
}

static enum hlm_schedule_kind recognize(struct hlm_arena *arena,
                                        const struct hlm_schedule *schedule)
{
    struct hlm_schedule_params params = {.num_ranks = schedule->num_ranks,
                                         .chunks = schedule->num_stages / schedule->num_ranks,
                                         .num_microbatches = schedule->num_microbatches};
    for (; params.kind < HLM_NUM_SCHEDULES; params.kind++) {
        params.group_size =
            params.kind == HLM_SCHEDULE_INTERLEAVED ? leading_forwards(&schedule->ranks[0]) : 0;
        const struct hlm_arena_mark mark = hlm_arena_mark(arena);
        const struct hlm_schedule *known;
        struct hlm_err ignored;
        const bool same = hlm_schedule_build_with(arena, &params, &known, &ignored) == HLM_OK &&
                          same_lists(known, schedule);
        hlm_arena_rewind(arena, mark);
        if (same) {
            break;
        }
    }
    return params.kind;
}

enum hlm_status hlm_schedule_from_csv(struct hlm_arena *arena, const char *name, const char *text,
                                      size_t length, const struct hlm_schedule **out,
                                      struct hlm_err *err)
{
    const size_t num_lines = count_bytes(text, length, '\n') + 1;
    /* A pair, which has a semicolon, is three actions; so is, while it is read, what looks like it.
     */
    const size_t num_cells =
        count_bytes(text, length, ',') + num_lines + 2 * count_bytes(text, length, ';');
    if (num_cells > INT32_MAX / 4) {
        return hlm_fail(err, HLM_INPUT, "%s: expected at most %d cells", name, INT32_MAX / 4);
    }
    struct reader reader = {
        .arena = arena,
        .name = name,
        .text = text,
        .length = length,
        .actions = HLM_ARENA_ARRAY(arena, struct hlm_action, num_cells),
        .ranks = HLM_ARENA_ARRAY(arena, struct hlm_rank_actions, num_lines),
        .err = err,
    };
    HLM_TRY(read_lines(&reader));
    struct hlm_schedule *schedule = HLM_ARENA_NEW(arena, struct hlm_schedule);
    HLM_TRY(measure(&reader, schedule));
    schedule->num_ranks = reader.num_ranks;
    schedule->ranks = reader.ranks;
    schedule->stage_rank = place_stages(&reader, schedule->num_stages);
    const enum hlm_status status = hlm_schedule_verify(schedule, err);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s", name);
        return status;
    }
    schedule->kind = recognize(arena, schedule);
    *out = schedule;
    return HLM_OK;
}
