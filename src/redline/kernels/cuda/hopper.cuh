// Hopper's own instructions, one function each: barriers in shared memory, bulk tensor copies, warpgroup products, programmatic
// dependent launch. No header of the toolkit is included, so that a runtime compiler alone is enough.
// Sources: PTX ISA 8.7, sections "mbarrier", "cp.async.bulk.tensor", "wgmma" and "griddepcontrol".

typedef unsigned char u8;
typedef unsigned short u16;  // the bits of a bfloat16, too
typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(64) TensorMap {
    u8 bytes[128];  // CUtensorMap, opaque
};

__device__ __forceinline__ u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

__device__ __forceinline__ float from_bf16(u16 bits) { return __uint_as_float((u32)bits << 16); }

__device__ __forceinline__ u32 pack_bf16(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ u16 to_bf16(float value) { return (u16)pack_bf16(value, 0.f); }

// A number as the largest of a list is found: a NaN counts as minus infinity, plus infinity as the largest number (sample.py).
__device__ __forceinline__ float ranked(float value) { return value == value ? fminf(value, 3.402823466e38f) + 0.f : __int_as_float(0xff800000); }

// A number of a list and its place there, as one integer: the largest belongs to the largest number, of equal ones to the first.
__device__ __forceinline__ u64 choice_key(float value, int place) {
    const u32 bits = __float_as_uint(ranked(value)), ordered = bits & 0x80000000 ? ~bits : bits | 0x80000000;
    return (u64)ordered << 32 | (0xffffffff - (u32)place);
}

// Programmatic dependent launch: what comes before `wait_for_kernel_before` may overlap the kernel before this one.
__device__ __forceinline__ void wait_for_kernel_before() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void let_next_kernel_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

__device__ __forceinline__ void barrier_init(u32 barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra ready;\n"
        "bra again;\n"
        "ready:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

__device__ __forceinline__ void barriers_are_visible() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier of the first `threads` threads of the block alone.
__device__ __forceinline__ void sync_threads(u32 id, u32 threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Counts at such a barrier without waiting there; `threads` are all who arrive or wait.
__device__ __forceinline__ void arrive_threads(u32 id, u32 threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ u64 policy_evict_first() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ u64 policy_evict_last() {
    u64 policy;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

// One box of a two-dimensional tensor into shared memory; `barrier` hears of its bytes.
__device__ __forceinline__ void copy_box(u32 target, const TensorMap& map, int column, int row, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3}], "
        "[%4], %5;" ::"r"(target),
        "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
        : "memory");
}

__device__ __forceinline__ void copy_box_3d(u32 target, const TensorMap& map, int i0, int i1, int i2, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4}], "
        "[%5], %6;" ::"r"(target),
        "l"(&map), "r"(i0), "r"(i1), "r"(i2), "r"(barrier), "l"(policy)
        : "memory");
}

__device__ __forceinline__ void copy_box_4d(u32 target, const TensorMap& map, int i0, int i1, int i2, int i3, u32 barrier, u64 policy) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], "
        "[%6], %7;" ::"r"(target),
        "l"(&map), "r"(i0), "r"(i1), "r"(i2), "r"(i3), "r"(barrier), "l"(policy)
        : "memory");
}

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// A matrix of 128-byte rows in shared memory, swizzled by 128 bytes in groups of eight rows, as wgmma wants it described.
__device__ __forceinline__ u64 describe(u32 address) {
    const u64 group_stride = 1024 >> 4, swizzle_128 = 1;
    return (u64)((address & 0x3FFFF) >> 4) | (1ull << 16) | (group_stride << 32) | (swizzle_128 << 62);
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
__device__ __forceinline__ void products_wait_but_last() { asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory"); }

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(0xffffffff, value, offset);
    return value;
}

// Blocks of a cluster: they run at the same time and read each other's shared memory.
__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
// Tells the others no more than that this block is there, and that its barriers are (`barriers_are_visible`): no fence of its memory.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Into another block's shared memory, without waiting for anything: its `barrier` hears of the bytes.
__device__ __forceinline__ void send_remote(u32 address, u32 barrier, u32 rank, float4 v) {
    u32 remote, remote_barrier;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote_barrier) : "r"(barrier), "r"(rank));
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(remote),
                 "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(remote_barrier)
                 : "memory");
}

__device__ __forceinline__ void send_remote(u32 address, u32 barrier, u32 rank, float2 v) {
    u32 remote, remote_barrier;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote_barrier) : "r"(barrier), "r"(rank));
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(remote), "f"(v.x), "f"(v.y),
                 "r"(remote_barrier)
                 : "memory");
}

// As barrier_wait, for arrivals from the other blocks of the cluster.
__device__ __forceinline__ void barrier_wait_cluster(u32 barrier, u32 parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
        "@done bra ready;\n"
        "bra again;\n"
        "ready:\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}
