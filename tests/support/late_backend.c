#include "tests/support/late_backend.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"

/* Memory as handed out and as it is. */
struct region {
    struct region *next;
    unsigned char *address, *real; /* real NULL: freed */
    size_t bytes, mapped_bytes;
};

struct late {
    struct hlm_backend base; /* first */
    struct hlm_backend *inner;
    pthread_mutex_t mutex; /* of all that follows, and of queues and events */
    pthread_cond_t changed;
    struct region *regions;
    int num_queues;
    uint64_t seed;
    double max_delay_s;
};

struct hlm_event {
    struct late *late;
    struct hlm_event *inner;
    int64_t num_recorded, num_passed;
};

struct task {
    struct task *next;
    enum hlm_status (*run)(struct hlm_queue *queue, const struct task *task, struct hlm_err *err);
    bool always; /* also after an error, since other queues wait for it */
    void *to;
    const void *from;
    int64_t bytes, ticket;
    struct hlm_event *event;
    struct hlm_op op;
    void *operands[HLM_OP_MAX_OPERANDS];
    struct hlm_op_scalars scalars;
    bool has_scalars;
};

struct hlm_queue {
    struct late *late;
    struct hlm_queue *inner; /* made and used by the worker */
    pthread_t owner, worker;
    struct task *first, *last;
    int64_t num_pushed, num_done;
    bool ready, ends;
    enum hlm_status status;
    struct hlm_err err;
    uint64_t num_delays, key;
};

static void *checked_calloc(size_t bytes)
{
    void *memory = calloc(1, bytes);
    HLM_ASSERT(memory != NULL);
    return memory;
}

static void lock(struct late *late)
{
    HLM_ASSERT(pthread_mutex_lock(&late->mutex) == 0);
}

static void unlock(struct late *late)
{
    HLM_ASSERT(pthread_mutex_unlock(&late->mutex) == 0);
}

static void wait_for_change(struct late *late)
{
    HLM_ASSERT(pthread_cond_wait(&late->changed, &late->mutex) == 0);
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
    region->next = late->regions;
    late->regions = region;
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
    struct region *region = late->regions;
    while (region != NULL && region->address != memory) {
        region = region->next;
    }
    HLM_ASSERT(region != NULL && region->real != NULL);
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
    const struct region *region = late->regions;
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
        wait_for_change(queue->late);
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
    HLM_ASSERT(pthread_cond_broadcast(&queue->late->changed) == 0);
    unlock(queue->late);
    free(task);
}

static void set_ready(struct hlm_queue *queue)
{
    lock(queue->late);
    queue->ready = true;
    HLM_ASSERT(pthread_cond_broadcast(&queue->late->changed) == 0);
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

static void push(struct hlm_queue *queue, const struct task *task)
{
    HLM_ASSERT(pthread_equal(queue->owner, pthread_self()));
    struct task *copy = checked_calloc(sizeof *copy);
    *copy = *task;
    lock(queue->late);
    if (queue->first == NULL) {
        queue->first = copy;
    } else {
        queue->last->next = copy;
    }
    queue->last = copy;
    queue->num_pushed++;
    HLM_ASSERT(pthread_cond_broadcast(&queue->late->changed) == 0);
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
    HLM_ASSERT(pthread_cond_broadcast(&queue->late->changed) == 0);
    unlock(queue->late);
    HLM_ASSERT(pthread_join(queue->worker, NULL) == 0);
    free(queue);
}

static enum hlm_status queue_sync(struct hlm_queue *queue, struct hlm_err *err)
{
    HLM_ASSERT(pthread_equal(queue->owner, pthread_self()));
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
    push(queue, &(struct task){.run = run_copy, .to = to, .from = from, .bytes = bytes});
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
    *event = (struct hlm_event){.late = late, .inner = inner};
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

static void event_free(struct hlm_event *event)
{
    if (event != NULL) {
        HLM_ASSERT(num_pending(event) == 0);
        event->late->inner->ops->event_free(event->inner);
        free(event);
    }
}

static enum hlm_status run_record(struct hlm_queue *queue, const struct task *task,
                                  struct hlm_err *err)
{
    const enum hlm_status status =
        queue->late->inner->ops->event_record(queue->inner, task->event->inner, err);
    lock(queue->late);
    task->event->num_passed = task->ticket;
    HLM_ASSERT(pthread_cond_broadcast(&queue->late->changed) == 0);
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
    unlock(queue->late);
    return HLM_OK;
}

static enum hlm_status event_wait(struct hlm_queue *queue, struct hlm_event *event,
                                  struct hlm_err *err)
{
    (void)err;
    lock(queue->late);
    const int64_t ticket = event->num_recorded;
    unlock(queue->late);
    push(queue, &(struct task){.run = run_wait, .event = event, .ticket = ticket});
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
    struct task task = {.run = run_operator, .op = *op, .has_scalars = scalars != NULL};
    memcpy(task.operands, operands, sizeof task.operands);
    if (scalars != NULL) {
        task.scalars = *scalars;
    }
    push(queue, &task);
    return HLM_OK;
}

static void release(struct hlm_backend *backend)
{
    struct late *late = late_of(backend);
    for (struct region *region = late->regions, *next; region != NULL; region = next) {
        next = region->next;
        HLM_ASSERT(munmap(region->address, region->mapped_bytes) == 0);
        late->inner->ops->free(late->inner, region->real);
        free(region);
    }
    hlm_backend_free(late->inner);
    HLM_ASSERT(pthread_cond_destroy(&late->changed) == 0);
    HLM_ASSERT(pthread_mutex_destroy(&late->mutex) == 0);
    free(late);
}

enum hlm_status late_backend_new(struct hlm_backend **out, uint64_t seed, double max_delay_s,
                                 struct hlm_err *err)
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
    };
    struct hlm_backend *inner = NULL;
    HLM_TRY(hlm_backend_cpu_new(&inner, err));
    struct late *late = checked_calloc(sizeof *late);
    *late =
        (struct late){.base.ops = &ops, .inner = inner, .seed = seed, .max_delay_s = max_delay_s};
    HLM_ASSERT(pthread_mutex_init(&late->mutex, NULL) == 0);
    HLM_ASSERT(pthread_cond_init(&late->changed, NULL) == 0);
    *out = &late->base;
    return HLM_OK;
}
