/* comm_internal: what transports share: their groups, and of the host transports (comm_thread,
 * comm_mpi) the chunked ring over their own send and receive. */
#ifndef HLM_EXEC_COMM_INTERNAL_H
#define HLM_EXEC_COMM_INTERNAL_H

#include "exec/comm/comm.h"

/* Collectives over fewer bytes (of the whole buffer) are the transport's business, others the
 * ring's: the ring moves the least bytes, but takes 2 (n - 1) steps. */
enum { HLM_RING_MIN_BYTES = 16384 };

/* The rank's group of one kind: world ranks in ring order. Size 1 also where the rank is in no such
 * group (middle stages and EMBEDDING), and where nobody is (hlm_layout_group_is_mutual). */
struct hlm_comm_group {
    enum hlm_group kind;
    int32_t size, position;
    int32_t *members; /* [size] */
};
struct hlm_comm_groups {
    struct hlm_comm_group of[HLM_NUM_GROUPS];
    int32_t *storage;
};
/* HLM_FAILED: out of memory. */
HLM_MUST_CHECK enum hlm_status hlm_comm_groups_init(struct hlm_comm_groups *out,
                                                    const struct hlm_strategy *strategy,
                                                    int32_t rank, struct hlm_err *err);
void hlm_comm_groups_release(struct hlm_comm_groups *groups);

/* The chunked ring: the group's buffer is n segments; the partial sum of segment q starts at
 * position q + 1 and ends at q, then the sums go round. Each step's segment travels in chunks,
 * several in flight, so that adding one overlaps with the way of the next, and no step waits for
 * the whole one before. Traffic: all_reduce 2 (n - 1) / n of the buffer sent by each rank, the
 * others half of that (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
 * workstations", 2009).
 *
 * Messages run through comm->ops with a channel per group, above those of the callers. */
enum { HLM_RING_CHANNEL = 16, HLM_RING_WINDOW = 4, HLM_RING_CHUNK_BYTES = 512 << 10 };
struct hlm_ring {
    unsigned char *slots; /* [2 * HLM_RING_WINDOW][slot_bytes], touched */
    int64_t slot_bytes;
};
HLM_MUST_CHECK enum hlm_status hlm_ring_init(struct hlm_ring *ring, int64_t max_bytes,
                                             struct hlm_err *err);
void hlm_ring_release(struct hlm_ring *ring);

/* As the functions of struct hlm_comm_ops. collective */
HLM_MUST_CHECK enum hlm_status hlm_ring_all_reduce(const struct hlm_ring *ring,
                                                   struct hlm_comm *comm,
                                                   const struct hlm_comm_group *group, void *data,
                                                   int64_t count, enum hlm_wire type,
                                                   enum hlm_reduce op, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_ring_all_gather(const struct hlm_ring *ring,
                                                   struct hlm_comm *comm,
                                                   const struct hlm_comm_group *group,
                                                   const void *in, void *out, int64_t count,
                                                   enum hlm_wire type, struct hlm_err *err);
HLM_MUST_CHECK enum hlm_status hlm_ring_reduce_scatter(const struct hlm_ring *ring,
                                                       struct hlm_comm *comm,
                                                       const struct hlm_comm_group *group,
                                                       const void *in, void *out, int64_t count,
                                                       enum hlm_wire type, struct hlm_err *err);

/* As all_to_all of struct hlm_comm_ops, by messages: in step i each position sends to the i-th
 * behind it and receives from the i-th in front, so that no two send to one at once. collective */
HLM_MUST_CHECK enum hlm_status hlm_pairwise_all_to_all(struct hlm_comm *comm,
                                                       const struct hlm_comm_group *group,
                                                       const void *in, const int64_t *in_bytes,
                                                       void *out, const int64_t *out_bytes,
                                                       struct hlm_err *err);

#endif
