// Parts of a sequence's sums that blocks leave in memory for others, how they are counted, and how many of them are joined at once. What heads.cuh
// names must be set.

// Sums that another block joins: numbers of rows, and what is best of each, behind which stand the totals of all rows.
struct Part {
    float *sums, *bests;
};

// Behind everything that this warp has written before.
__device__ __forceinline__ void count_part(int* counter) { asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory"); }

// The same with how many there were before; what was written before any of them can be read then.
__device__ __forceinline__ int arrive(int* counter) {
    int before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

// The same where nothing is to be read or was written.
__device__ __forceinline__ int take_leave(int* counter) {
    int before;
    asm volatile("atom.relaxed.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
    return before;
}

__device__ __forceinline__ int counted_parts(const int* counter) {
    int count;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(count) : "l"(counter) : "memory");
    return count;
}

#define FOURS (GROUP * HEAD / 4)  // float4 of a head's queries
#define AT_ONCE 6                 // parts that a lane asks for together

// Four numbers of some queries' sums, and what is best and the total of their row.
struct Four {
    float best, total;
    float4 sum;

    __device__ __forceinline__ void add(float other_best, float other_total, float4 other) {
        const float higher = fmaxf(best, other_best), old = exp2f(best - higher), own = exp2f(other_best - higher);
        best = higher, total = total * old + other_total * own;
        sum.x = sum.x * old + other.x * own, sum.y = sum.y * old + other.y * own;
        sum.z = sum.z * old + other.z * own, sum.w = sum.w * old + other.w * own;
    }
};

// Every `step`th of `count` parts from `begin` on: number `four` of its fours. `part_at(i)` is where the i-th lies, for GROUP rows.
template <class PartAt>
__device__ __forceinline__ Four gather_parts(PartAt part_at, u32 count, u32 four, u32 begin, u32 step) {
    Four found = {LOWEST, 0.f, make_float4(0.f, 0.f, 0.f, 0.f)};
    const u32 row = four * 4 / HEAD;
    for (; begin < count; begin += AT_ONCE * step) {
        float bests[AT_ONCE], totals[AT_ONCE];
        float4 sums[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i) {  // all on their way before the first is added
            if (begin + i * step >= count) continue;
            const Part part = part_at(begin + i * step);
            sums[i] = __ldcg((const float4*)part.sums + four), bests[i] = __ldcg(part.bests + row), totals[i] = __ldcg(part.bests + GROUP + row);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; ++i)
            if (begin + i * step < count) found.add(bests[i], totals[i], sums[i]);
    }
    return found;
}

// One of `shares` shares of a head's output, [GROUP, HEAD]. Lanes side by side have four numbers each, and as many such groups as a warp has room for
// have other parts of the same ones.
template <class PartAt>
__device__ __forceinline__ void join_share(PartAt part_at, u32 count, u16* output, u32 share, u32 shares, int lane) {
    const u32 each = (FOURS + shares - 1) / shares, end = min(FOURS, (share + 1) * each);
    u32 columns = 1;
    while (columns < 32 && columns < each) columns *= 2;
    for (u32 first = share * each; first < end; first += columns) {
        const u32 four = min(first + lane % columns, end - 1);  // the last one's twice, but not written twice
        Four found = gather_parts(part_at, count, four, lane / columns, 32 / columns);
        float highest = found.best;
        for (u32 offset = columns; offset < 32; offset *= 2) highest = fmaxf(highest, __shfl_xor_sync(0xffffffff, highest, offset));
        const float weight = exp2f(found.best - highest);  // of a lane without parts: 0
        found.total *= weight, found.sum.x *= weight, found.sum.y *= weight, found.sum.z *= weight, found.sum.w *= weight;
        for (u32 offset = columns; offset < 32; offset *= 2) {
            found.total += __shfl_xor_sync(0xffffffff, found.total, offset);
            found.sum.x += __shfl_xor_sync(0xffffffff, found.sum.x, offset), found.sum.y += __shfl_xor_sync(0xffffffff, found.sum.y, offset);
            found.sum.z += __shfl_xor_sync(0xffffffff, found.sum.z, offset), found.sum.w += __shfl_xor_sync(0xffffffff, found.sum.w, offset);
        }
        const float part = 1.f / found.total;
        if (lane < columns && first + lane < end)
            *(uint2*)(output + 4 * four) = make_uint2(pack_bf16(found.sum.x * part, found.sum.y * part), pack_bf16(found.sum.z * part, found.sum.w * part));
    }
}
