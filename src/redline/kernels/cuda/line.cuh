// The line in which the keys of a step's sequences stand, in tiles, and how it is dealt to blocks: deal.cu makes it, batch_attention.cu walks it.

#define TILE 16  // keys
#define ROWS 16  // queries of a bundle, at the most

// What stands in the line: of a sequence, those of its tiles that no bundle reads for it.
struct Entry {
    int sequence;  // of a bundle, its first member's
    int context;   // keys, the new one included; of a bundle, one more than its members have in common
    int skipped;   // tiles
    int bundle;    // ROWS times the place of the bundle that reads them, and the member's own in it; -1 for none
};

// A sequence of a bundle, -1 for none, and its keys, the new one included.
struct Member {
    int sequence, context;
};

// Where a block begins: an entry, its place in the line, and which tiles are its.
struct Start {
    Entry own;
    int place, first, next, unused;
};

// A sequence has a tile at least, and its new key, which is not in the cache yet, comes after them.
__device__ __forceinline__ int tiles_of(int context) { return context > 1 ? (context - 1 + TILE - 1) / TILE : context; }

// Blocks that have work: one tile at the least.
__device__ __forceinline__ u32 busy(u32 blocks, u32 total) { return total < blocks ? total : blocks; }

// A block's first tile. Steps whose tiles times their blocks exceed 32 bits are not dealt (MOST_KEYS in batch_attention_cuda.py): divisions of 64 take long
// where other blocks wait.
__device__ __forceinline__ int first_of(u32 block, u32 blocks, u32 total) { return block * total / blocks; }

// The block that has tile `tile`.
__device__ __forceinline__ u32 owner_of(u32 tile, u32 blocks, u32 total) { return ((tile + 1) * blocks - 1) / total; }
