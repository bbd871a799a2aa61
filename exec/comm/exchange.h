/* exchange: the one place through which a rank's data reaches its peers, over transports of both
 * kinds (exec/comm/comm.h), so that the runner reads as if there were one.
 *
 * Everything is told from the view of the *compute queue*, the queue on which the caller launches
 * operators. A function of this header
 *   - acts on the data as it is when the compute queue gets there: what was launched before is
 *     seen, what is launched later sees the result (of `start`, `send` and `receive`: what is
 *     launched after their `wait`);
 *   - is called by all ranks concerned in the same order, in which it may rely on program order
 *     alone: no caller syncs a queue for the sake of communication.
 *
 * Over a host transport (threads, MPI) a function syncs the compute queue, stages data that the
 * host can't reach (exec/comm/hostcopy.h), blocks until the transport is through and brings the
 * result back; `start` has then finished, `receive` is only posted and `wait` brings the data.
 *
 * Over a stream-ordered transport (NCCL, comm_queue) the host goes on at once and the device keeps
 * the order. Each lane has a queue of its own, tied to the compute queue by events:
 *   compute            collectives that the next operator needs (collective)
 *   beside             collectives that run beside computing (start), in order among themselves
 *   send, receive      of messages, a queue each for every channel, so that a receive that was
 *                      posted early holds up neither a send nor the other direction
 * Only the functions that hand values to the host (host_sum, host_gather, barrier, sync, step_end)
 * block there. (comm_queue may also block a call until the peers have made theirs, never for data.)
 *
 * Waiting: every wait that depends on others ends within timeout_s without progress, with
 * HLM_FAILED and a message that names the action that was entered, the rank, the operation, its
 * group and the peer: "1F0: all_reduce over tp: rank 0 has waited 60 s for the arrival of rank 1".
 * A stream-ordered transport is aborted then, so that its operations let go of the queues. After a
 * failure only hlm_exchange_free may be called.
 *
 * Times: seconds of communication are counted per *slot*, a number that the caller gives to each
 * action that it measures. With a host transport they are wall clock of the calls; the computing
 * clock stands still meanwhile. With a stream-ordered one they are the device's own, between events
 * on the compute queue, so computing took the time between the caller's own events on that queue
 * around the action, minus collective_s and message_s.
 *
 * Used by one thread, the maker's.
 */
#ifndef HLM_EXEC_EXCHANGE_H
#define HLM_EXEC_EXCHANGE_H

#include "base/arena.h"
#include "exec/comm/comm.h"
#include "exec/compute_clock.h"

struct hlm_exchange;

/* Something on its way: a message, or a collective beside computing. It belongs to the exchange;
 * NULL: nothing. Each is waited for once. */
struct hlm_transfer;

/* The channel of a message in struct hlm_comm_ops. */
#define HLM_CHANNEL_MAP(X) X(FORWARD, "forward") X(BACKWARD, "backward")
enum hlm_channel {
#define X(name, text) HLM_CHANNEL_##name,
    HLM_CHANNEL_MAP(X)
#undef X
        HLM_NUM_CHANNELS
};

/* What happens now, for the launcher's watchdog: operation (a literal, NULL: computing goes on) and
 * whether the call waits for other ranks. */
typedef void hlm_exchange_tell_fn(void *context, const char *operation, bool waiting);

struct hlm_exchange_config {
    const struct hlm_strategy *strategy; /* of the groups; as the transport's */
    struct hlm_comm *comm;
    struct hlm_backend *backend;
    struct hlm_queue *queue; /* the compute queue */
    double timeout_s;
    int32_t num_slots; /* slots are 0 .. num_slots - 1 */
    /* Host transports: paused around communication that has a slot (it runs then), else left alone;
     * the queue is empty at both ends. Stream-ordered ones never touch it. NULL: none. */
    struct hlm_compute_clock *clock;
    hlm_exchange_tell_fn *tell; /* may be NULL */
    void *tell_context;
};

/* Seconds of communication in one slot. */
struct hlm_exchange_times {
    double collective_s; /* in collectives on the compute queue, and waiting for those beside it */
    double expert_s;     /* of these, in all_to_all */
    double message_s;    /* in waiting for and moving messages, and in host_sum */
    /* Of the collectives started in this slot: from when their data was there to their end, however
     * much of it computing hid. */
    double beside_s;
};

/* The exchange and its lists lie in the arena, which outlives the transport (a peer may still read
 * staged data after this rank has failed). Backend, queue and transport outlive the exchange. Each
 * rank of the world has one. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_new(struct hlm_arena *arena,
                                                const struct hlm_exchange_config *config,
                                                struct hlm_exchange **out, struct hlm_err *err);
/* Before the transport is released, also after a failure. NULL accepted. */
void hlm_exchange_free(struct hlm_exchange *exchange);

/* --- the frame --- */

/* Forgets the times of the step before. No transfer may be on its way. */
void hlm_exchange_step_begin(struct hlm_exchange *exchange);

/* What follows belongs to this action ("0F3", lives until step_end; NULL: between actions) and
 * counts in this slot (-1: in none). */
void hlm_exchange_enter(struct hlm_exchange *exchange, const char *action, int32_t slot);

/* Blocks until all queues are empty; then the times stand. All transfers have been waited for. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_step_end(struct hlm_exchange *exchange,
                                                     struct hlm_err *err);

/* Of the step that has ended; over a host transport at any time. */
struct hlm_exchange_times hlm_exchange_times(const struct hlm_exchange *exchange, int32_t slot);

/* --- collectives --- */

/* op: kind (ALL_REDUCE, ALL_REDUCE_MAX, ALL_GATHER, REDUCE_SCATTER), group, dtype (fp32 or bf16)
 * and m * n, the elements of the whole buffer; its operand indices are not looked at. in and out:
 * addresses as in costmodel/op.h, out NULL where the operator works in place. A rank that is alone
 * in the group copies in to out. collective over the group */
HLM_MUST_CHECK enum hlm_status hlm_exchange_collective(struct hlm_exchange *exchange,
                                                       const struct hlm_op *op, void *in, void *out,
                                                       struct hlm_err *err);

/* The same beside computing, which may go on with everything but what it reads and writes until
 * hlm_exchange_wait(*out). *out NULL: it is done already. collective over the group */
HLM_MUST_CHECK enum hlm_status hlm_exchange_start(struct hlm_exchange *exchange,
                                                  const struct hlm_op *op, void *in, void *out_data,
                                                  struct hlm_transfer **out, struct hlm_err *err);

/* ALL_TO_ALL of costmodel/op.h with or without counts; operands: addresses in the order of its
 * operands, in memory of the backend. Where there are counts, the call blocks until the host has
 * them. HLM_FAILED where more rows come or go than there is room for, naming rank, rows and room;
 * HLM_ENV where the transport can't (stream-ordered ones). collective over the group
 */
HLM_MUST_CHECK enum hlm_status hlm_exchange_all_to_all(struct hlm_exchange *exchange,
                                                       const struct hlm_op *op,
                                                       void *const *operands, struct hlm_err *err);

/* --- messages between world ranks ---
 * Those of one sender, receiver and channel arrive in the order in which they were posted. The data
 * may be read (receive) or written (send) behind hlm_exchange_wait only. bytes > 0 and equal on
 * both sides; data is memory of the backend. */

/* Posts it: the data of the compute queue up to here leaves while computing goes on. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_send(struct hlm_exchange *exchange, int32_t peer,
                                                 enum hlm_channel channel, void *data,
                                                 int64_t bytes, struct hlm_transfer **out,
                                                 struct hlm_err *err);

/* Posts it, as early as `data` is free at this point of the compute queue. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_receive(struct hlm_exchange *exchange, int32_t peer,
                                                    enum hlm_channel channel, void *data,
                                                    int64_t bytes, struct hlm_transfer **out,
                                                    struct hlm_err *err);

/* What is launched from now on runs behind the transfer. Frees *transfer and sets it to NULL; NULL
 * in *transfer: returns at once. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_wait(struct hlm_exchange *exchange,
                                                 struct hlm_transfer **transfer,
                                                 struct hlm_err *err);

/* --- values of the host; these block --- */

/* values[i] becomes the sum over the group, in a fixed order: all ranks have the same bits (loss,
 * gradient norm). operation: a literal for the watchdog, "all_reduce of the loss". The compute
 * queue is not looked at: the caller has brought the values to the host before (download,
 * hlm_exchange_sync). collective over the group */
HLM_MUST_CHECK enum hlm_status hlm_exchange_host_sum(struct hlm_exchange *exchange,
                                                     enum hlm_group group, double *values,
                                                     int32_t count, const char *operation,
                                                     struct hlm_err *err);

/* out: bytes * group size, in group order, from `bytes` of each rank; for reports after the steps,
 * not for tensors. collective over the group */
HLM_MUST_CHECK enum hlm_status hlm_exchange_host_gather(struct hlm_exchange *exchange,
                                                        enum hlm_group group, const void *in,
                                                        void *out, int64_t bytes,
                                                        struct hlm_err *err);

/* Returns when all ranks of the group have come here and this rank's compute queue is empty.
 * collective over the group */
HLM_MUST_CHECK enum hlm_status hlm_exchange_barrier(struct hlm_exchange *exchange,
                                                    enum hlm_group group, struct hlm_err *err);

/* Blocks until the compute queue is empty. In place of the backend's queue_sync wherever the queue
 * may wait for other ranks: that one would wait for ever for a peer that died. */
HLM_MUST_CHECK enum hlm_status hlm_exchange_sync(struct hlm_exchange *exchange,
                                                 struct hlm_err *err);

#endif
