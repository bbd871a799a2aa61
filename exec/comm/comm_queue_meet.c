/* Meetings of a group's members on the host, and waiting in general. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "exec/comm/comm_queue_internal.h"

/* --- waiting --- */

enum hlm_status hlm_queue_fail_late(const struct hlm_queue_comm *self, int32_t peer,
                                    const char *what, struct hlm_err *err)
{
    const struct hlm_queue_member *other = &self->shared->members[peer];
    (void)hlm_crew_fail_late(&self->shared->crew, self->base.rank, peer, what, err);
    if (other->waits_in != NULL) {
        const size_t length = strlen(err->text);
        const bool messages = other->waits_over == HLM_GROUP_NONE;
        snprintf(err->text + length, sizeof err->text - length, ", which waits in %s%s%s",
                 other->waits_in, messages ? "" : " over ",
                 messages ? "" : hlm_group_texts[other->waits_over]);
    }
    return HLM_FAILED;
}

bool hlm_queue_settle(const struct hlm_queue_comm *self, struct hlm_event *event,
                      const struct timespec *deadline)
{
    const struct timespec pause = {0, 100000};
    struct hlm_err ignored;
    bool done = false;
    while (self->backend->ops->event_done(event, &done, &ignored) == HLM_OK && !done) {
        if (hlm_crew_passed(deadline)) {
            return false;
        }
        nanosleep(&pause, NULL);
    }
    return true;
}

/* --- meetings; the lock is held --- */

static struct hlm_queue_cell *cell_of(const struct hlm_queue_comm *self,
                                      const struct hlm_comm_group *group)
{
    const struct hlm_queue_shared *shared = self->shared;
    return &shared->cells[(int32_t)group->kind * shared->crew.world_size + group->members[0]];
}

/* The first that gives up is remembered. */
static void break_cell(struct hlm_queue_comm *self, struct hlm_queue_cell *cell)
{
    if (!cell->broken) {
        cell->broken = true;
        cell->broken_by = self->base.rank;
    }
    hlm_crew_wake_all(&self->shared->crew);
}

static struct hlm_queue_show *shows_in(const struct hlm_queue_cell *cell, uint64_t generation)
{
    return cell->shows + (generation & 1) * (uint64_t)cell->size;
}

static bool has_arrived(const struct hlm_queue_cell *cell, int32_t position, uint64_t generation)
{
    return cell->arrived[position] > generation;
}

static bool agree(const struct hlm_queue_call *a, const struct hlm_queue_call *b)
{
    return strcmp(a->name, b->name) == 0 && a->count == b->count && a->type == b->type &&
           a->reduce == b->reduce;
}

static void describe(const struct hlm_queue_call *call, char text[100])
{
    snprintf(text, 100, "%s of %" PRId64 " %s", call->name, call->count,
             hlm_wire_texts[call->type]);
}

/* Compares this member's call with that of any who came before. */
static void find_clash(struct hlm_queue_comm *self, struct hlm_queue_cell *cell,
                       const struct hlm_comm_group *group, uint64_t generation)
{
    const struct hlm_queue_show *shows = shows_in(cell, generation);
    const struct hlm_queue_call *own = &shows[group->position].call;
    for (int32_t i = 0; i < cell->size; i++) {
        if (has_arrived(cell, i, generation) && !agree(&shows[i].call, own)) {
            char theirs[100], ours[100];
            describe(&shows[i].call, theirs);
            describe(own, ours);
            snprintf(cell->clash, sizeof cell->clash,
                     "the ranks differ in what comes next over %s: rank %" PRId32
                     " calls %s, rank %" PRId32 " calls %s",
                     hlm_group_texts[group->kind], group->members[i], theirs,
                     group->members[group->position], ours);
            break_cell(self, cell);
            return;
        }
    }
}

static int32_t first_missing(const struct hlm_queue_cell *cell, uint64_t generation)
{
    for (int32_t i = 0; i < cell->size; i++) {
        if (!has_arrived(cell, i, generation)) {
            return i;
        }
    }
    return 0;
}

/* Why no meeting comes about. */
static enum hlm_status check_cell(struct hlm_queue_comm *self, const struct hlm_comm_group *group,
                                  const struct hlm_queue_cell *cell, uint64_t generation,
                                  struct hlm_err *err)
{
    if (cell->clash[0] != '\0') {
        return hlm_fail(err, HLM_FAILED, "%s", cell->clash);
    }
    const int32_t missing = group->members[first_missing(cell, generation)];
    HLM_TRY(
        hlm_crew_check_peer(&self->shared->crew, self->base.rank, missing, "the arrival of", err));
    return cell->broken
               ? hlm_fail(err, HLM_FAILED, "rank %" PRId32 ": rank %" PRId32 " has given up before",
                          self->base.rank, cell->broken_by)
               : HLM_OK;
}

static enum hlm_status await_all(struct hlm_queue_comm *self, const struct hlm_comm_group *group,
                                 struct hlm_queue_cell *cell, uint64_t generation,
                                 struct hlm_err *err)
{
    const struct timespec deadline = hlm_crew_deadline(self->shared->crew.timeout_s);
    bool late = false;
    while (cell->generation == generation) {
        HLM_TRY(check_cell(self, group, cell, generation, err));
        if (late) {
            const int32_t missing = group->members[first_missing(cell, generation)];
            return hlm_queue_fail_late(self, missing, "the arrival of", err);
        }
        late = !hlm_crew_sleep(&self->shared->crew, self->base.rank, &deadline);
    }
    return HLM_OK;
}

static enum hlm_status arrive(struct hlm_queue_comm *self, const struct hlm_comm_group *group,
                              struct hlm_queue_cell *cell, const struct hlm_queue_show *show,
                              struct hlm_err *err)
{
    const uint64_t generation = cell->generation;
    struct hlm_queue_member *own = &self->shared->members[self->base.rank];
    shows_in(cell, generation)[group->position] = *show;
    find_clash(self, cell, group, generation);
    cell->arrived[group->position] = generation + 1;
    if (++cell->num_arrived == cell->size && !cell->broken) {
        cell->num_arrived = 0;
        cell->generation++;
    }
    hlm_crew_wake_all(&self->shared->crew);
    own->waits_in = show->call.name;
    own->waits_over = group->kind;
    const enum hlm_status status = await_all(self, group, cell, generation, err);
    own->waits_in = NULL;
    return status;
}

/* --- giving up in the middle of a call --- */

/* Whether a peer may still put something on its queue that reads this rank's data: it has not come
 * to the meeting that failed, and has not left. *out: the event of one that came and still reads.
 */
static bool is_read(struct hlm_queue_comm *self, const struct hlm_comm_group *group,
                    const struct hlm_queue_cell *cell)
{
    for (int32_t i = 0; i < cell->size; i++) {
        struct hlm_err ignored;
        bool done = false;
        if (i == group->position || self->shared->crew.members[group->members[i]].left) {
            continue;
        }
        if (!has_arrived(cell, i, cell->generation)) {
            return true;
        }
        struct hlm_event *event = shows_in(cell, cell->generation)[i].event;
        if (self->backend->ops->event_done(event, &done, &ignored) == HLM_OK && !done) {
            return true;
        }
    }
    return false;
}

void hlm_queue_give_up(struct hlm_queue_comm *self, const struct hlm_comm_group *group)
{
    struct hlm_queue_shared *shared = self->shared;
    struct hlm_queue_cell *cell = cell_of(self, group);
    const struct timespec deadline = hlm_crew_deadline(shared->crew.timeout_s);
    pthread_mutex_lock(&shared->crew.lock);
    break_cell(self, cell);
    while (is_read(self, group, cell) && !hlm_crew_passed(&deadline)) {
        const struct timespec look = hlm_crew_deadline(1e-3);
        (void)hlm_crew_sleep(&self->shared->crew, self->base.rank, &look);
    }
    pthread_mutex_unlock(&shared->crew.lock);
}

/* The cell is broken before anybody else can come, so that a late member does not go on to read
 * data of one that has given up. */
static enum hlm_status meet(struct hlm_queue_comm *self, const struct hlm_comm_group *group,
                            const struct hlm_queue_show *show, const struct hlm_queue_show **out,
                            struct hlm_err *err)
{
    struct hlm_queue_shared *shared = self->shared;
    struct hlm_queue_cell *cell = cell_of(self, group);
    pthread_mutex_lock(&shared->crew.lock);
    const uint64_t generation = cell->generation;
    const enum hlm_status status = arrive(self, group, cell, show, err);
    if (status != HLM_OK) {
        break_cell(self, cell);
    }
    pthread_mutex_unlock(&shared->crew.lock);
    if (status != HLM_OK) {
        hlm_err_prefix(err, "%s over %s", show->call.name, hlm_group_texts[group->kind]);
        return status;
    }
    *out = shows_in(cell, generation);
    return HLM_OK;
}

/* Only the members of a meeting advance its number, and this one is still missing. */
static struct hlm_event *next_event(struct hlm_queue_comm *self, const struct hlm_comm_group *group)
{
    struct hlm_queue_shared *shared = self->shared;
    pthread_mutex_lock(&shared->crew.lock);
    const uint64_t generation = cell_of(self, group)->generation;
    pthread_mutex_unlock(&shared->crew.lock);
    return self->events[group->kind][generation & 1];
}

enum hlm_status hlm_queue_meet(struct hlm_queue_comm *self, const struct hlm_comm_group *group,
                               const struct hlm_queue_call *call, const void *data,
                               const struct hlm_queue_show **out, struct hlm_err *err)
{
    const struct hlm_backend_ops *ops = self->backend->ops;
    const struct hlm_queue_show show = {
        .call = *call, .data = data, .event = next_event(self, group)};
    HLM_TRY(ops->event_record(self->queue, show.event, err));
    HLM_TRY(meet(self, group, &show, out, err));
    for (int32_t i = 0; i < group->size; i++) {
        if (i != group->position) {
            HLM_TRY(ops->event_wait(self->queue, (*out)[i].event, err));
        }
    }
    return HLM_OK;
}

enum hlm_status hlm_queue_meet_hosts(struct hlm_queue_comm *self,
                                     const struct hlm_comm_group *group, struct hlm_err *err)
{
    const struct hlm_queue_show *shows = NULL;
    const struct hlm_queue_show show = {.call = {.name = "barrier"}};
    return meet(self, group, &show, &shows, err);
}
