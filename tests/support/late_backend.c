#include "tests/support/late_backend.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"

/* Memory as handed out and as it is. */
struct region {
    struct region *next;
    const struct late *owner;
    unsigned char *address, *real; /* real NULL: freed */
    size_t bytes, mapped_bytes;
};

/* What backends of one device share. */
struct device {
    pthread_mutex_t mutex; /* of all that follows, and of queues and events */
    pthread_cond_t changed;
    struct region *regions;
    int num_backends;
};

struct late {
    struct hlm_backend base; /* first */
    struct hlm_backend *inner;
    struct device *device;
    int num_queues;
    uint64_t seed;
    double max_delay_s;
};

struct hlm_event {
    struct late *late;
    struct hlm_event *inner;
    int64_t num_recorded, num_passed;
    int num_users; /* the owner, and waits that have not run */
};

struct task {
    struct task *next;
    enum hlm_status (*run)(struct hlm_queue *queue, const struct task *task, struct hlm_err *err);
    bool always;     /* also after an error, since other queues wait for it */
    bool may_repeat; /* may stand in a graph */
    void *to;
    const void *from;
    int64_t bytes, ticket;
    struct hlm_event *event;
    struct hlm_op op;
    void *operands[HLM_OP_MAX_OPERANDS];
    struct hlm_op_scalars scalars;
    bool has_scalars;
    enum hlm_wire wire;
    enum hlm_reduce reduce;
    const atomic_bool *open; /* of a hold */
    double seconds;
};

struct hlm_queue {
    struct late *late;
    struct hlm_queue *inner; /* made and used by the worker */
    pthread_t owner, worker;
    pthread_cond_t has_work; /* for the worker alone: few threads wait for device->changed */
    struct task *first, *last;
    int64_t num_pushed, num_done;
    bool ready, ends;
    struct hlm_graph *graph; /* being captured, NULL: none */
    enum hlm_status status;
    struct hlm_err err;
    uint64_t num_delays, key;
};

/* Tasks that are put on the queue again and again. */
struct hlm_graph {
    struct hlm_queue *queue;
    struct task *first, *last;
};

static void *checked_calloc(size_t bytes)
{
    void *memory = calloc(1, bytes);
    HLM_ASSERT(memory != NULL);
    return memory;
}

static void lock(struct late *late)
{
    HLM_ASSERT(pthread_mutex_lock(&late->device->mutex) == 0);
}

static void unlock(struct late *late)
{
    HLM_ASSERT(pthread_mutex_unlock(&late->device->mutex) == 0);
}

static void wait_for_change(struct late *late)
{
    HLM_ASSERT(pthread_cond_wait(&late->device->changed, &late->device->mutex) == 0);
}

static void tell_change(struct late *late)
{
    HLM_ASSERT(pthread_cond_broadcast(&late->device->changed) == 0);
}

static struct late *late_of(struct hlm_backend *backend)
{
    return (struct late *)backend;
}

/* --- memory --- */

static enum hlm_status alloc(struct hlm_backend *backend, int64_t bytes, void **out,
                             struct hlm_err *err)
{
    struct late *late = late_of(backend);
    void *real = NULL;
    HLM_TRY(late->inner->ops->alloc(late->inner, bytes, &real, err));
    struct region *region = checked_calloc(sizeof *region);
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    region->bytes = (size_t)bytes;
    region->mapped_bytes = (region->bytes / page + 2) * page;
    region->real = real;
    region->address = mmap(NULL, region->mapped_bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    HLM_ASSERT(region->address != MAP_FAILED);
    memset(real, 0xFF, region->bytes);
    lock(late);
    region->owner = late;
    region->next = late->device->regions;
    late->device->regions = region;
    unlock(late);
    *out = region->address;
    return HLM_OK;
}

static void free_memory(struct hlm_backend *backend, void *memory)
{
    struct late *late = late_of(backend);
    if (memory == NULL) {
        return;
    }
    lock(late);
    struct region *region = late->device->regions;
    while (region != NULL && region->address != memory) {
        region = region->next;
    }
    HLM_ASSERT(region != NULL && region->real != NULL && region->owner == late);
    late->inner->ops->free(late->inner, region->real);
    region->real = NULL;
    unlock(late);
}

/* Where `bytes` at this handed-out address really are; NULL stays NULL. */
static void *real_of(struct late *late, const void *address, int64_t bytes)
{
    if (address == NULL) {
        return NULL;
    }
    lock(late);
    const uintptr_t at = (uintptr_t)address;
    const struct region *region = late->device->regions;
    while (region != NULL &&
           (at < (uintptr_t)region->address || at > (uintptr_t)region->address + region->bytes)) {
        region = region->next;
    }
    HLM_ASSERT(region != NULL && region->real != NULL);
    const size_t offset = at - (uintptr_t)region->address;
    HLM_ASSERT(offset + (size_t)bytes <= region->bytes);
    unlock(late);
    return region->real + offset;
}

/* --- the worker --- */

static void delay(struct hlm_queue *queue)
{
    const double seconds =
        queue->late->max_delay_s * hlm_rng_uniform(queue->key, queue->num_delays++);
    const struct timespec pause = {(time_t)seconds,
                                   (long)(1e9 * (seconds - (double)(time_t)seconds))};
    if (seconds > 0.0) {
        nanosleep(&pause, NULL);
    }
}

static struct task *next_task(struct hlm_queue *queue)
{
    lock(queue->late);
    while (queue->first == NULL && !queue->ends) {
        HLM_ASSERT(pthread_cond_wait(&queue->has_work, &queue->late->device->mutex) == 0);
    }
    struct task *task = queue->first;
    if (task != NULL) {
        queue->first = task->next;
    }
    unlock(queue->late);
    return task;
}

static void finish_task(struct hlm_queue *queue, struct task *task)
{
    lock(queue->late);
    queue->num_done++;
    tell_change(queue->late);
    unlock(queue->late);
    free(task);
}

static void set_ready(struct hlm_queue *queue)
{
    lock(queue->late);
    queue->ready = true;
    tell_change(queue->late);
    unlock(queue->late);
}

static void *work(void *argument)
{
    struct hlm_queue *queue = argument;
    struct hlm_backend *inner = queue->late->inner;
    queue->status = inner->ops->queue_new(inner, &queue->inner, &queue->err);
    set_ready(queue);
    if (queue->status != HLM_OK) {
        return NULL;
    }
    for (struct task *task = next_task(queue); task != NULL; task = next_task(queue)) {
        delay(queue);
        if (queue->status == HLM_OK) {
            queue->status = task->run(queue, task, &queue->err);
        } else if (task->always) {
            struct hlm_err ignored;
            (void)task->run(queue, task, &ignored);
        }
        finish_task(queue, task);
    }
    inner->ops->queue_free(queue->inner);
    return NULL;
}

static void append(struct task **first, struct task **last, const struct task *task)
{
    struct task *copy = checked_calloc(sizeof *copy);
    *copy = *task;
    copy->next = NULL;
    if (*first == NULL) {
        *first = copy;
    } else {
        (*last)->next = copy;
    }
    *last = copy;
}

static void push(struct hlm_queue *queue, const struct task *task)
{
    HLM_ASSERT(pthread_equal(queue->owner, pthread_self()));
    if (queue->graph != NULL) {
        HLM_ASSERT(task->may_repeat);
        append(&queue->graph->first, &queue->graph->last, task);
        return;
    }
    lock(queue->late);
    append(&queue->first, &queue->last, task);
    queue->num_pushed++;
    HLM_ASSERT(pthread_cond_signal(&queue->has_work) == 0);
    unlock(queue->late);
}

/* --- queues --- */

static enum hlm_status queue_new(struct hlm_backend *backend, struct hlm_queue **out,
                                 struct hlm_err *err)
{
    struct late *late = late_of(backend);
    struct hlm_queue *queue = checked_calloc(sizeof *queue);
    queue->late = late;
    queue->owner = pthread_self();
    HLM_ASSERT(pthread_cond_init(&queue->has_work, NULL) == 0);
    lock(late);
    queue->key = hlm_rng_bits(late->seed, (uint64_t)late->num_queues++);
    HLM_ASSERT(pthread_create(&queue->worker, NULL, work, queue) == 0);
    while (!queue->ready) {
        wait_for_change(late);
    }
    unlock(late);
    if (queue->status != HLM_OK) {
        const enum hlm_status status = queue->status;
        *err = queue->err;
        HLM_ASSERT(pthread_join(queue->worker, NULL) == 0);
        HLM_ASSERT(pthread_cond_destroy(&queue->has_work) == 0);
        free(queue);
        return status;
    }
    *out = queue;
    return HLM_OK;
}

static void queue_free(struct hlm_queue *queue)
{
    if (queue == NULL) {
        return;
    }
    HLM_ASSERT(pthread_equal(queue->owner, pthread_self()));
    lock(queue->late);
    queue->ends = true;
    HLM_ASSERT(pthread_cond_signal(&queue->has_work) == 0);
    unlock(queue->late);
    HLM_ASSERT(pthread_join(queue->worker, NULL) == 0);
    HLM_ASSERT(pthread_cond_destroy(&queue->has_work) == 0);
    free(queue);
}

static enum hlm_status queue_sync(struct hlm_queue *queue, struct hlm_err *err)
{
    HLM_ASSERT(pthread_equal(queue->owner, pthread_self()) && queue->graph == NULL);
    lock(queue->late);
    while (queue->num_done < queue->num_pushed) {
        wait_for_change(queue->late);
    }
    unlock(queue->late);
    if (queue->status != HLM_OK) {
        *err = queue->err;
    }
    return queue->status;
}

/* --- copies --- */

static enum hlm_status run_upload(struct hlm_queue *queue, const struct task *task,
                                  struct hlm_err *err)
{
    return queue->late->inner->ops->upload(
        queue->inner, real_of(queue->late, task->to, task->bytes), task->from, task->bytes, err);
}

static enum hlm_status upload(struct hlm_queue *queue, void *device, const void *host,
                              int64_t bytes, struct hlm_err *err)
{
    (void)err;
    push(queue, &(struct task){.run = run_upload, .to = device, .from = host, .bytes = bytes});
    return HLM_OK;
}

static enum hlm_status run_download(struct hlm_queue *queue, const struct task *task,
                                    struct hlm_err *err)
{
    return queue->late->inner->ops->download(
        queue->inner, task->to, real_of(queue->late, task->from, task->bytes), task->bytes, err);
}

static enum hlm_status download(struct hlm_queue *queue, void *host, const void *device,
                                int64_t bytes, struct hlm_err *err)
{
    (void)err;
    memset(host, 0xFF, (size_t)bytes);
    push(queue, &(struct task){.run = run_download, .to = host, .from = device, .bytes = bytes});
    return HLM_OK;
}

static enum hlm_status run_copy(struct hlm_queue *queue, const struct task *task,
                                struct hlm_err *err)
{
    return queue->late->inner->ops->copy(queue->inner, real_of(queue->late, task->to, task->bytes),
                                         real_of(queue->late, task->from, task->bytes), task->bytes,
                                         err);
}

static enum hlm_status copy(struct hlm_queue *queue, void *to, const void *from, int64_t bytes,
                            struct hlm_err *err)
{
    (void)err;
    push(queue, &(struct task){
                    .run = run_copy, .may_repeat = true, .to = to, .from = from, .bytes = bytes});
    return HLM_OK;
}

/* --- events --- */

static enum hlm_status event_new(struct hlm_backend *backend, struct hlm_event **out,
                                 struct hlm_err *err)
{
    struct late *late = late_of(backend);
    struct hlm_event *inner = NULL;
    HLM_TRY(late->inner->ops->event_new(late->inner, &inner, err));
    struct hlm_event *event = checked_calloc(sizeof *event);
    *event = (struct hlm_event){.late = late, .inner = inner, .num_users = 1};
    *out = event;
    return HLM_OK;
}

/* The number of records that have not happened yet. */
static int64_t num_pending(struct hlm_event *event)
{
    lock(event->late);
    const int64_t pending = event->num_recorded - event->num_passed;
    unlock(event->late);
    return pending;
}

/* One user less. Lock held. */
static void drop(struct hlm_event *event)
{
    if (--event->num_users == 0) {
        free(event);
    }
}

static void event_free(struct hlm_event *event)
{
    if (event != NULL) {
        struct late *late = event->late;
        HLM_ASSERT(num_pending(event) == 0);
        late->inner->ops->event_free(event->inner);
        lock(late);
        drop(event);
        unlock(late);
    }
}

static enum hlm_status event_done(struct hlm_event *event, bool *out, struct hlm_err *err)
{
    (void)err;
    *out = num_pending(event) == 0;
    return HLM_OK;
}

static enum hlm_status run_record(struct hlm_queue *queue, const struct task *task,
                                  struct hlm_err *err)
{
    const enum hlm_status status =
        queue->late->inner->ops->event_record(queue->inner, task->event->inner, err);
    lock(queue->late);
    task->event->num_passed = task->ticket;
    tell_change(queue->late);
    unlock(queue->late);
    return status;
}

static enum hlm_status event_record(struct hlm_queue *queue, struct hlm_event *event,
                                    struct hlm_err *err)
{
    (void)err;
    lock(queue->late);
    const int64_t ticket = ++event->num_recorded;
    unlock(queue->late);
    push(queue,
         &(struct task){.run = run_record, .always = true, .event = event, .ticket = ticket});
    return HLM_OK;
}

static enum hlm_status run_wait(struct hlm_queue *queue, const struct task *task,
                                struct hlm_err *err)
{
    (void)err;
    lock(queue->late);
    while (task->event->num_passed < task->ticket) {
        wait_for_change(queue->late);
    }
    drop(task->event);
    unlock(queue->late);
    return HLM_OK;
}

static enum hlm_status event_wait(struct hlm_queue *queue, struct hlm_event *event,
                                  struct hlm_err *err)
{
    (void)err;
    HLM_ASSERT(event->late->device == queue->late->device);
    lock(queue->late);
    const int64_t ticket = event->num_recorded;
    event->num_users++;
    unlock(queue->late);
    push(queue, &(struct task){.run = run_wait, .always = true, .event = event, .ticket = ticket});
    return HLM_OK;
}

static struct hlm_event_time event_time(struct hlm_event *event)
{
    HLM_ASSERT(num_pending(event) == 0);
    return event->late->inner->ops->event_time(event->inner);
}

/* --- operators --- */

static enum hlm_status run_operator(struct hlm_queue *queue, const struct task *task,
                                    struct hlm_err *err)
{
    void *real[HLM_OP_MAX_OPERANDS];
    for (int i = 0; i < HLM_OP_MAX_OPERANDS; i++) {
        real[i] = real_of(queue->late, task->operands[i], 0);
    }
    return queue->late->inner->ops->launch(queue->inner, &task->op, real,
                                           task->has_scalars ? &task->scalars : NULL, err);
}

static enum hlm_status launch(struct hlm_queue *queue, const struct hlm_op *op,
                              void *const operands[HLM_OP_MAX_OPERANDS],
                              const struct hlm_op_scalars *scalars, struct hlm_err *err)
{
    (void)err;
    struct task task = {
        .run = run_operator, .may_repeat = true, .op = *op, .has_scalars = scalars != NULL};
    memcpy(task.operands, operands, sizeof task.operands);
    if (scalars != NULL) {
        task.scalars = *scalars;
    }
    push(queue, &task);
    return HLM_OK;
}

static enum hlm_status run_combine(struct hlm_queue *queue, const struct task *task,
                                   struct hlm_err *err)
{
    struct late *late = queue->late;
    return late->inner->ops->combine(queue->inner, real_of(late, task->operands[0], task->bytes),
                                     real_of(late, task->operands[1], task->bytes),
                                     real_of(late, task->operands[2], task->bytes),
                                     task->bytes / hlm_wire_bytes(task->wire), task->wire,
                                     task->reduce, err);
}

static enum hlm_status combine(struct hlm_queue *queue, void *out, const void *a, const void *b,
                               int64_t count, enum hlm_wire type, enum hlm_reduce op,
                               struct hlm_err *err)
{
    (void)err;
    struct task task = {.run = run_combine,
                        .may_repeat = true,
                        .bytes = count * hlm_wire_bytes(type),
                        .operands = {out, (void *)(uintptr_t)a, (void *)(uintptr_t)b},
                        .wire = type,
                        .reduce = op};
    push(queue, &task);
    return HLM_OK;
}

static enum hlm_status launch_list(struct hlm_queue *queue, const struct hlm_launch *list,
                                   int32_t num, const struct hlm_op_scalars *scalars,
                                   struct hlm_err *err)
{
    for (int32_t i = 0; i < num; i++) {
        HLM_TRY(launch(queue, list[i].op, list[i].operands, scalars, err));
    }
    return HLM_OK;
}

/* --- graphs --- */

static enum hlm_status capture_begin(struct hlm_queue *queue, struct hlm_err *err)
{
    (void)err;
    HLM_ASSERT(queue->graph == NULL);
    queue->graph = checked_calloc(sizeof *queue->graph);
    queue->graph->queue = queue;
    return HLM_OK;
}

static enum hlm_status capture_end(struct hlm_queue *queue, struct hlm_graph **out,
                                   struct hlm_err *err)
{
    (void)err;
    HLM_ASSERT(queue->graph != NULL);
    *out = queue->graph;
    queue->graph = NULL;
    return HLM_OK;
}

static enum hlm_status graph_launch(struct hlm_graph *graph, const struct hlm_op_scalars *scalars,
                                    struct hlm_err *err)
{
    (void)err;
    HLM_ASSERT(graph->queue->graph == NULL);
    for (const struct task *task = graph->first; task != NULL; task = task->next) {
        struct task now = *task;
        if (now.has_scalars) {
            HLM_ASSERT(scalars != NULL);
            now.scalars.loss_scale = scalars->loss_scale;
            now.scalars.learning_rate = scalars->learning_rate;
            now.scalars.grad_scale = scalars->grad_scale;
            now.scalars.step = scalars->step;
        }
        push(graph->queue, &now);
    }
    return HLM_OK;
}

static void graph_free(struct hlm_graph *graph)
{
    if (graph == NULL) {
        return;
    }
    for (struct task *task = graph->first, *next; task != NULL; task = next) {
        next = task->next;
        free(task);
    }
    free(graph);
}

/* --- tests' own --- */

static enum hlm_status run_hold(struct hlm_queue *queue, const struct task *task,
                                struct hlm_err *err)
{
    (void)queue;
    (void)err;
    const struct timespec pause = {0, 1000000};
    for (int64_t i = 0; (double)i * 1e-3 < task->seconds && !atomic_load(task->open); i++) {
        nanosleep(&pause, NULL);
    }
    return HLM_OK;
}

void late_backend_hold(struct hlm_queue *queue, const atomic_bool *open, double seconds)
{
    push(queue, &(struct task){.run = run_hold, .open = open, .seconds = seconds});
}

/* --- life --- */

static struct device *device_new(void)
{
    struct device *device = checked_calloc(sizeof *device);
    HLM_ASSERT(pthread_mutex_init(&device->mutex, NULL) == 0);
    HLM_ASSERT(pthread_cond_init(&device->changed, NULL) == 0);
    return device;
}

static void device_free(struct device *device)
{
    for (struct region *region = device->regions, *next; region != NULL; region = next) {
        next = region->next;
        HLM_ASSERT(munmap(region->address, region->mapped_bytes) == 0);
        free(region);
    }
    HLM_ASSERT(pthread_cond_destroy(&device->changed) == 0);
    HLM_ASSERT(pthread_mutex_destroy(&device->mutex) == 0);
    free(device);
}

static void release(struct hlm_backend *backend)
{
    struct late *late = late_of(backend);
    lock(late);
    for (struct region *region = late->device->regions; region != NULL; region = region->next) {
        if (region->owner == late && region->real != NULL) {
            late->inner->ops->free(late->inner, region->real);
            region->real = NULL;
        }
    }
    const bool last = --late->device->num_backends == 0;
    unlock(late);
    if (last) {
        device_free(late->device);
    }
    hlm_backend_free(late->inner);
    free(late);
}

static enum hlm_status new_on(struct device *device, struct hlm_backend **out, uint64_t seed,
                              double max_delay_s, struct hlm_err *err)
{
    static const struct hlm_backend_ops ops = {
        .version = HLM_BACKEND_VERSION,
        .name = "late",
        .host_memory = false,
        .release = release,
        .alloc = alloc,
        .free = free_memory,
        .queue_new = queue_new,
        .queue_free = queue_free,
        .queue_sync = queue_sync,
        .upload = upload,
        .download = download,
        .copy = copy,
        .event_new = event_new,
        .event_free = event_free,
        .event_record = event_record,
        .event_wait = event_wait,
        .event_time = event_time,
        .launch = launch,
        .launch_list = launch_list,
        .capture_begin = capture_begin,
        .capture_end = capture_end,
        .graph_launch = graph_launch,
        .graph_free = graph_free,
        .event_done = event_done,
        .combine = combine,
    };
    struct hlm_backend *inner = NULL;
    HLM_TRY(hlm_backend_cpu_new(&inner, err));
    struct late *late = checked_calloc(sizeof *late);
    *late = (struct late){.base.ops = &ops,
                          .inner = inner,
                          .device = device,
                          .seed = seed,
                          .max_delay_s = max_delay_s};
    lock(late);
    device->num_backends++;
    unlock(late);
    *out = &late->base;
    return HLM_OK;
}

enum hlm_status late_backend_new(struct hlm_backend **out, uint64_t seed, double max_delay_s,
                                 struct hlm_err *err)
{
    struct device *device = device_new();
    const enum hlm_status status = new_on(device, out, seed, max_delay_s, err);
    if (status != HLM_OK) {
        device_free(device);
    }
    return status;
}

enum hlm_status late_backend_new_beside(struct hlm_backend *other, struct hlm_backend **out,
                                        uint64_t seed, double max_delay_s, struct hlm_err *err)
{
    return new_on(late_of(other)->device, out, seed, max_delay_s, err);
}
