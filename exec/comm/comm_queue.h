/* comm_queue: a stream-ordered transport among threads of one process whose backends reach each
 * other's memory (exec/backend.h, "Among threads"): several ranks on one GPU, which NCCL refuses,
 * or on a few, without MPI, NCCL or host memory.
 *
 * All data moves by copies of the backends, from the peer's memory to one's own, and is added by
 * their combine() in group order, in segments of which each is added by one rank: all ranks get the
 * same bits, and the same again. Queues wait only for events that have been recorded: so a queue
 * never waits for a peer's host, and can't hang on this transport's account.
 *
 * What waits for peers is the host: of a collective until all members have called it, to learn
 * their addresses and events; of a message in wait(), until the other side has posted it. send and
 * receive return at once; whoever posts second puts the copy on its queue in use. None waits for
 * data.
 *
 * A wait ends after timeout_s, when a peer has left, or when a rank has ended the run: HLM_FAILED
 * naming rank, operation, group, peer, and what the peer itself waits for. Members that meet in
 * different collectives fail at once, and both calls are named.
 */
#ifndef HLM_EXEC_COMM_QUEUE_H
#define HLM_EXEC_COMM_QUEUE_H

#include "exec/backend.h"
#include "exec/comm/comm.h"

/* world_size ranks: out[world_size]; each is used by one thread and released by it, the last
 * release frees the shared part. */
HLM_MUST_CHECK enum hlm_status hlm_comm_queue_new(const struct hlm_comm_config *config,
                                                  struct hlm_comm **out, struct hlm_err *err);

/* The rank's backend, which outlives the transport; by the rank's thread, before use_queue. */
HLM_MUST_CHECK enum hlm_status
hlm_comm_queue_use_backend(struct hlm_comm *comm, struct hlm_backend *backend, struct hlm_err *err);

#endif
