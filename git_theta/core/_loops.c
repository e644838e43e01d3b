/* The loops over numbers that cost most: cutting them into byte planes and joining them again,
 * differences, changed places, sums; and how large files are written.
 *
 * What each does is said in loops.py (of `write`, in repo/streams.py), where the same is done without
 * this. No argument is trusted: sizes are checked here, and nothing is read or written beyond a
 * buffer.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <float.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers are stored little-endian, and read here as they are"
#endif
#if FLT_EVAL_METHOD != 0
#error "sums have to be rounded once, to their own type"
#endif

/* One copy for each kind of processor, chosen as the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WIDE __attribute__((target_clones("avx2", "default")))
#endif
#define FUSED __attribute__((optimize("fp-contract=fast"))) WIDE
#else
#define WIDE
#define FUSED
#endif

#define TILE 2048

/* The same function for each width of a word: its unsigned and signed type. */
#define FOR_EACH_WORD(DEFINE)   \
    DEFINE(1, uint8_t, int8_t)   \
    DEFINE(2, uint16_t, int16_t) \
    DEFINE(4, uint32_t, int32_t) \
    DEFINE(8, uint64_t, int64_t)

/* Unaligned reads and writes: the compiler makes plain ones of them. */
#define GET(type, from, index) (*(const type##_any *)((from) + (size_t)(index) * sizeof(type)))
#define PUT(type, to, index, value) \
    (*(type##_any *)((to) + (size_t)(index) * sizeof(type)) = (type)(value))
#define ANY(type) typedef type type##_any __attribute__((aligned(1), may_alias));
ANY(uint8_t)
ANY(uint16_t)
ANY(uint32_t)
ANY(uint64_t)

typedef const uint8_t *In;
typedef uint8_t *Out;

/* Differences of either sign as small numbers, and back. */
#define FOLDED(U, S, change) \
    ((U)((U)((change) << 1) ^ (U)((S)(change) >> (8 * sizeof(U) - 1))))
#define UNFOLDED(U, folded) ((U)((U)((folded) >> 1) ^ (U)((U)0 - ((folded) & 1))))

/* --- planes ----------------------------------------------------------------------------------- */

#define DEFINE_SPLIT(width, U, S)                                                                 \
    WIDE static void split_##width(In new, In old, Out planes, size_t count, int turn)            \
    {                                                                                             \
        U tile[TILE];                                                                             \
        for (size_t start = 0; start < count; start += TILE) {                                    \
            size_t size = count - start < TILE ? count - start : TILE;                            \
            if (old != NULL)                                                                      \
                for (size_t i = 0; i < size; i++) {                                               \
                    U change = (U)(GET(U, new, start + i) - GET(U, old, start + i));              \
                    tile[i] = FOLDED(U, S, change);                                               \
                }                                                                                 \
            else if (turn)                                                                        \
                for (size_t i = 0; i < size; i++) {                                               \
                    U value = GET(U, new, start + i);                                             \
                    tile[i] = (U)((U)(value << turn) | (U)(value >> (8 * width - turn)));         \
                }                                                                                 \
            else                                                                                  \
                memcpy(tile, new + start * width, size * width);                                  \
            for (int plane = 0; plane < width; plane++) {                                         \
                Out to = planes + (size_t)plane * count + start;                                  \
                for (size_t i = 0; i < size; i++)                                                 \
                    to[i] = (uint8_t)(tile[i] >> (8 * plane));                                    \
            }                                                                                     \
        }                                                                                         \
    }
FOR_EACH_WORD(DEFINE_SPLIT)

/* In one pass where that is all planes of a word, else one after the other. */
#define JOIN(U, size)                                                                             \
    if (top == 4)                                                                                 \
        for (size_t i = 0; i < size; i++)                                                         \
            tile[i] = (U)((U)p[0][i] | (U)((U)p[1][i] << (8 & SHIFT(U))) |                        \
                          (U)((U)p[2][i] << (16 & SHIFT(U))) | (U)((U)p[3][i] << (24 & SHIFT(U)))); \
    else if (top == 2)                                                                            \
        for (size_t i = 0; i < size; i++)                                                         \
            tile[i] = (U)((U)p[0][i] | (U)((U)p[1][i] << (8 & SHIFT(U))));                        \
    else {                                                                                        \
        for (size_t i = 0; i < size; i++)                                                         \
            tile[i] = p[0][i];                                                                    \
        for (int plane = 1; plane < top; plane++)                                                 \
            for (size_t i = 0; i < size; i++)                                                     \
                tile[i] |= (U)((U)p[plane][i] << (8 * plane));                                    \
    }
#define SHIFT(U) (8 * sizeof(U) - 1)

#define DEFINE_JOIN(width, U, S)                                                                  \
    WIDE static void join_##width(In *planes, int top, In old, Out out, size_t count, int turn)   \
    {                                                                                             \
        U tile[TILE];                                                                             \
        In p[8];                                                                                  \
        for (size_t start = 0; start < count; start += TILE) {                                    \
            size_t size = count - start < TILE ? count - start : TILE;                            \
            for (int plane = 0; plane < top; plane++)                                             \
                p[plane] = planes[plane] + start;                                                 \
            JOIN(U, size)                                                                         \
            if (old != NULL)                                                                      \
                for (size_t i = 0; i < size; i++) {                                               \
                    U change = UNFOLDED(U, tile[i]);                                              \
                    PUT(U, out, start + i, change + GET(U, old, start + i));                      \
                }                                                                                 \
            else if (turn)                                                                        \
                for (size_t i = 0; i < size; i++)                                                 \
                    PUT(U, out, start + i,                                                        \
                        (U)(tile[i] >> turn) | (U)(tile[i] << (8 * width - turn)));               \
            else                                                                                  \
                memcpy(out + start * width, tile, size * width);                                  \
        }                                                                                         \
    }
FOR_EACH_WORD(DEFINE_JOIN)

/* --- the words that changed ------------------------------------------------------------------- */

/* Which of eight bytes, each 0 or 1, are set: the first one's bit is the highest. */
static inline uint8_t packed(In flags)
{
    return (uint8_t)((GET(uint64_t, flags, 0) * 0x8040201008040201u) >> 56);
}

/* The folded differences of a tile, and which of them are any. */
#define FOLD(U, S, width)                                                                         \
    for (size_t i = 0; i < size; i++) {                                                           \
        U change = (U)(GET(U, new, start + i) - GET(U, old, start + i));                          \
        tile[i] = FOLDED(U, S, change);              \
    }                                                                                             \
    for (size_t i = 0; i < size; i++)                                                             \
        flags[i] = tile[i] != 0;                                                                  \
    memset(flags + size, 0, TILE - size);

/* For each eight bits, the first one the highest: which of them are set, and for each how many are
 * before it. */
static uint16_t set_places[256][8], set_before[256][8];

static void count_bits(void)
{
    for (unsigned bits = 0; bits < 256; bits++) {
        uint16_t found = 0;
        for (uint16_t i = 0; i < 8; i++) {
            set_before[bits][i] = found;
            if (bits >> (7 - i) & 1)
                set_places[bits][found++] = i;
        }
    }
}

#define COUNT(bits) ((size_t)set_before[bits][7] + ((bits) & 1))

/* `pick` writes those of eight words whose bits are set, one behind the other, and then anything;
 * `lay` reads eight words and puts the first of them where bits are set, and zeros elsewhere. */
#define DEFINE_ONE_BY_ONE(width, U, S)                                                            \
    static inline void pick_##width(unsigned bits, const U *words, Out to)                        \
    {                                                                                             \
        for (int i = 0; i < 8; i++)                                                               \
            PUT(U, to, i, words[set_places[bits][i]]);                                            \
    }                                                                                             \
    static inline void lay_##width(unsigned bits, In from, U *words)                              \
    {                                                                                             \
        for (int i = 0; i < 8; i++)                                                               \
            words[i] = GET(U, from, set_before[bits][i]) & (U)((U)0 - ((bits >> (7 - i)) & 1));   \
    }
DEFINE_ONE_BY_ONE(1, uint8_t, int8_t)
DEFINE_ONE_BY_ONE(4, uint32_t, int32_t)
DEFINE_ONE_BY_ONE(8, uint64_t, int64_t)

#if defined(__GNUC__) && !defined(__clang__)
typedef uint16_t eight __attribute__((vector_size(16), aligned(2), may_alias));

static inline void pick_2(unsigned bits, const uint16_t *words, Out to)
{
    *(eight *)to = __builtin_shuffle(*(const eight *)words, *(const eight *)set_places[bits]);
}

static inline void lay_2(unsigned bits, In from, uint16_t *words)
{
    const eight each = {128, 64, 32, 16, 8, 4, 2, 1};
    eight laid = __builtin_shuffle(*(const eight *)from, *(const eight *)set_before[bits]);
    *(eight *)words = laid & (eight)((each & (uint16_t)bits) != 0);
}
#else
DEFINE_ONE_BY_ONE(2, uint16_t, int16_t)
#endif

#define DEFINE_GATHER(width, U, S)                                                                \
    WIDE static size_t gather_##width(In new, In old, Out bits, Out values, size_t count)         \
    {                                                                                             \
        U tile[TILE];                                                                             \
        uint8_t flags[TILE];                                                                      \
        size_t found = 0;                                                                         \
        for (size_t start = 0; start < count; start += TILE) {                                    \
            size_t size = count - start < TILE ? count - start : TILE, i = 0;                     \
            FOLD(U, S, width)                                                                     \
            for (; i + 8 <= size; i += 8) {                                                       \
                uint8_t set = packed(flags + i);                                                  \
                bits[(start + i) / 8] = set;                                                      \
                pick_##width(set, tile + i, values + found * width);                              \
                found += COUNT(set);                                                              \
            }                                                                                     \
            if (i < size)                                                                         \
                bits[(start + i) / 8] = packed(flags + i);                                        \
            for (; i < size; i++) {                                                               \
                PUT(U, values, found, tile[i]);                                                   \
                found += flags[i];                                                                \
            }                                                                                     \
        }                                                                                         \
        return found;                                                                             \
    }
FOR_EACH_WORD(DEFINE_GATHER)

/* The bits of up to eight words, the first one's the highest; others are none of theirs. */
static inline unsigned set_bits(In bits, size_t first, size_t count)
{
    return count - first < 8 ? bits[first / 8] & (0xFF00u >> (count - first)) : bits[first / 8];
}

#define DEFINE_SPREAD(width, U, S)                                                                \
    WIDE static void spread_##width(In bits, In values, size_t many, In old, Out out, size_t count) \
    {                                                                                             \
        U tile[TILE];                                                                             \
        for (size_t start = 0; start < count; start += TILE) {                                    \
            size_t size = count - start < TILE ? count - start : TILE;                            \
            for (size_t i = 0; i < size; i += 8) {                                                \
                unsigned set = set_bits(bits, start + i, count);                                  \
                U few[8] = {0};                                                                   \
                if (many < 8)                                                                     \
                    memcpy(few, values, many * width);                                            \
                lay_##width(set, many < 8 ? (In)few : values, tile + i);                          \
                values += COUNT(set) * width;                                                     \
                many -= COUNT(set);                                                               \
            }                                                                                     \
            for (size_t i = 0; i < size; i++) {                                                   \
                U change = UNFOLDED(U, tile[i]);                                                  \
                PUT(U, out, start + i, GET(U, old, start + i) + change);                          \
            }                                                                                     \
        }                                                                                         \
    }
FOR_EACH_WORD(DEFINE_SPREAD)

#define DEFINE_SEEK(width, U, S)                                                                  \
    WIDE static size_t seek_##width(In new, In old, Out gaps, Out values, size_t count, size_t *gap) \
    {                                                                                             \
        U tile[TILE];                                                                             \
        uint8_t flags[TILE];                                                                      \
        size_t found = 0, next = 0 - *gap;                                                        \
        for (size_t start = 0; start < count; start += TILE) {                                    \
            size_t size = count - start < TILE ? count - start : TILE;                            \
            FOLD(U, S, width)                                                                     \
            for (size_t i = 0; i < size; i += 8)                                                  \
                for (uint64_t set = GET(uint64_t, flags + i, 0); set; set &= set - 1) {               \
                    size_t at = i + (size_t)__builtin_ctzll(set) / 8;                             \
                    PUT(uint32_t, gaps, found, start + at - next);                                \
                    PUT(U, values, found, tile[at]);                                              \
                    found++;                                                                      \
                    next = start + at + 1;                                                        \
                }                                                                                 \
        }                                                                                         \
        *gap = count - next;                                                                      \
        return found;                                                                             \
    }
FOR_EACH_WORD(DEFINE_SEEK)

#define DEFINE_SCATTER(width, U, S)                                                               \
    static Py_ssize_t scatter_##width(In gaps, In values, size_t many, Out out, size_t count,     \
                                      size_t at)                                                  \
    {                                                                                             \
        for (size_t i = 0; i < many; i++, at++) {                                                 \
            at += GET(uint32_t, gaps, i);                                                         \
            if (at >= count)                                                                      \
                return -1;                                                                        \
            U value = GET(U, values, i);                                                          \
            PUT(U, out, at, GET(U, out, at) + UNFOLDED(U, value));                                \
        }                                                                                         \
        return (Py_ssize_t)at;                                                                    \
    }
FOR_EACH_WORD(DEFINE_SCATTER)

/* --- sums ------------------------------------------------------------------------------------- */

/* The same bits as another type. */
#define DEFINE_CAST(name, from_type, to_type)     \
    static inline to_type name(from_type given)   \
    {                                             \
        to_type made;                             \
        memcpy(&made, &given, sizeof made);       \
        return made;                              \
    }
DEFINE_CAST(float_of, uint32_t, float)
DEFINE_CAST(bits_of, float, uint32_t)
DEFINE_CAST(double_of, uint64_t, double)
DEFINE_CAST(double_bits, double, uint64_t)

static inline float widen_bf16(uint32_t bits) { return float_of(bits << 16); }

static inline uint32_t bf16_of(float value)
{
    uint32_t bits = bits_of(value);
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
}

#define AS_BF16(total) bf16_of((float)(total))
#define AS_F32(total) bits_of((float)(total))

/* Magnitudes are moved so that those of normal numbers come first: zero, subnormal and not finite
 * ones come at `span` and above. `L` is as wide as sums are, so that all fits together. */
#define DEFINE_ADDED(name, U, L, bits, mantissa, F, WIDEN, ROUND)                                 \
    WIDE static void added_##name(const F *changes, In base, Out out, size_t count)                    \
    {                                                                                             \
        const L most = (L)~(L)0 >> (8 * sizeof(L) - bits), twice = (L)2 << mantissa;              \
        const L span = most - ((L)4 << mantissa) + 1;                                             \
        for (size_t i = 0; i < count; i++) {                                                      \
            L old = GET(U, base, i);                                                              \
            L new = ROUND(changes[i] + (F)WIDEN(old));                                            \
            L odd = (((new << 1) - twice) & most) >= span;                                        \
            odd |= (L)((((old << 1) - twice) & most) >= span) & (L)(((old << 1) & most) != 0);    \
            PUT(U, out, i, odd ? old : new);                                                      \
        }                                                                                         \
    }

DEFINE_ADDED(bf16_single, uint16_t, uint32_t, 16, 7, float, widen_bf16, AS_BF16)
DEFINE_ADDED(bf16_double, uint16_t, uint32_t, 16, 7, double, widen_bf16, AS_BF16)
DEFINE_ADDED(f32_single, uint32_t, uint32_t, 32, 23, float, float_of, AS_F32)
DEFINE_ADDED(f32_double, uint32_t, uint32_t, 32, 23, double, float_of, AS_F32)
DEFINE_ADDED(f64_double, uint64_t, uint64_t, 64, 52, double, double_of, double_bits)

/* Two rows of the left factor, one `apart` numbers behind the other, times some columns of the right
 * one: the first `SPAN` of `totals` are the first row's. Sums are exact, so it may add as it likes. */
#define SPAN 512
#define DEFINE_MULTIPLY(F)                                                                        \
    typedef F F##_vector __attribute__((vector_size(64), aligned(sizeof(F)), may_alias));         \
    FUSED static void multiply_##F(const F *left, size_t apart, const F *right, size_t columns,   \
                                   size_t rank, F *totals, size_t count)                          \
    {                                                                                             \
        const size_t lanes = 64 / sizeof(F);                                                      \
        size_t i = 0;                                                                             \
        for (; i + 2 * lanes <= count; i += 2 * lanes) {                                          \
            F##_vector a0 = {0}, a1 = {0}, b0 = {0}, b1 = {0};                                    \
            for (size_t k = 0; k < rank; k++) {                                                   \
                const F *from = right + k * columns + i;                                          \
                F##_vector r0 = *(const F##_vector *)from;                                        \
                F##_vector r1 = *(const F##_vector *)(from + lanes);                              \
                a0 += left[k] * r0;                                                               \
                a1 += left[k] * r1;                                                               \
                b0 += left[apart + k] * r0;                                                       \
                b1 += left[apart + k] * r1;                                                       \
            }                                                                                     \
            *(F##_vector *)(totals + i) = a0;                                                     \
            *(F##_vector *)(totals + i + lanes) = a1;                                             \
            *(F##_vector *)(totals + SPAN + i) = b0;                                              \
            *(F##_vector *)(totals + SPAN + i + lanes) = b1;                                      \
        }                                                                                         \
        for (; i < count; i++) {                                                                  \
            F a = 0, b = 0;                                                                       \
            for (size_t k = 0; k < rank; k++) {                                                   \
                a += left[k] * right[k * columns + i];                                            \
                b += left[apart + k] * right[k * columns + i];                                    \
            }                                                                                     \
            totals[i] = a;                                                                        \
            totals[SPAN + i] = b;                                                                 \
        }                                                                                         \
    }
DEFINE_MULTIPLY(float)
DEFINE_MULTIPLY(double)

typedef struct {
    const void *left, *right;
    size_t rank, columns, skip;
    In base;
    Out out;
    size_t count;
} Product;

/* The numbers of a row that are in the chunk, which begins `skip` numbers after the start of its
 * first row; of some columns. */
static size_t inside(const Product *p, size_t row, size_t column, size_t end, size_t *first)
{
    size_t start = row * p->columns + column, stop = row * p->columns + end;
    *first = start < p->skip ? p->skip : start;
    stop = stop < p->skip + p->count ? stop : p->skip + p->count;
    return stop > *first ? stop - *first : 0;
}

/* Some columns of the right factor are used for all rows before the next ones are, so that they stay
 * near; by two rows at once where both are whole. */
#define DEFINE_PRODUCT(name, width, F)                                                            \
    static void product_##name(const Product *p)                                                  \
    {                                                                                             \
        F totals[2 * SPAN];                                                                       \
        size_t rows = (p->skip + p->count + p->columns - 1) / p->columns, first, second;          \
        for (size_t column = 0; column < p->columns; column += SPAN) {                            \
            size_t end = p->columns - column < SPAN ? p->columns : column + SPAN;                 \
            for (size_t row = 0; row < rows; row++) {                                             \
                size_t size = inside(p, row, column, end, &first);                                \
                int two = row + 1 < rows && size == end - column &&                               \
                          inside(p, row + 1, column, end, &second) == size;                       \
                multiply_##F((const F *)p->left + row * p->rank, two ? p->rank : 0,               \
                             (const F *)p->right + (first - row * p->columns), p->columns,        \
                             p->rank, totals, size);                                              \
                for (int i = 0; i <= two; i++, first += p->columns)                               \
                    added_##name(totals + i * SPAN, p->base + (first - p->skip) * width,          \
                                 p->out + (first - p->skip) * width, size);                       \
                row += (size_t)two;                                                               \
            }                                                                                     \
        }                                                                                         \
    }
DEFINE_PRODUCT(bf16_single, 2, float)
DEFINE_PRODUCT(bf16_double, 2, double)
DEFINE_PRODUCT(f32_single, 4, float)
DEFINE_PRODUCT(f32_double, 4, double)
DEFINE_PRODUCT(f64_double, 8, double)

/* --- sums of a block -------------------------------------------------------------------------- */

#define LANES 64
#define MOST_VALUES (256 << 10)

/* Some numbers as floats, which lie as their bits do. */
#define RUN 32
static inline void load_4(In values, size_t at, float *to) { memcpy(to, values + at * 4, RUN * 4); }
static inline void load_2(In values, size_t at, float *to)
{
    uint16_t halves[RUN];
    uint32_t bits[RUN];
    memcpy(halves, values + at * 2, sizeof halves);
    for (int j = 0; j < RUN; j++)
        bits[j] = (uint32_t)halves[j] << 16;
    memcpy(to, bits, sizeof bits);
}

/* 64 bits from any place; those of each byte are in order from its lowest. */
static inline uint64_t bits_from(In bits, size_t at)
{
    uint64_t low = GET(uint64_t, bits, at / 64);
    return at % 64 ? low >> at % 64 | GET(uint64_t, bits, at / 64 + 1) << (64 - at % 64) : low;
}

/* Three times halved: the first and the second half added, the halves of that, and once more. */
#define HALVED(TERM)                                                      \
    (((TERM(0) + TERM(4)) + (TERM(2) + TERM(6))) + ((TERM(1) + TERM(5)) + (TERM(3) + TERM(7))))
#define SQUARE(k) (v[k][j] * v[k][j])
#define VALUE(k) v[k][j]
#define SIGNED(k) w[k][j]

static inline void turn(float *values, uint32_t signs)
{
    uint32_t bits[RUN];
    memcpy(bits, values, sizeof bits);
    for (int j = 0; j < RUN; j++)
        bits[j] ^= signs << (31 - j) & 0x80000000u;
    memcpy(values, bits, sizeof bits);
}

/* The first three halvings of squares, of values and of values with signs, for 64 sums each. */
#define DEFINE_SUMS(width)                                                                        \
    WIDE static void sums_##width(In values, size_t part, In signs, size_t start, float *squares, \
                                  float *plain, float *turned)                                    \
    {                                                                                             \
        size_t step = part * LANES;                                                               \
        for (size_t at = 0; at < step; at += RUN) {                                               \
            float v[8][RUN], w[8][RUN], sums[3][RUN];                                             \
            for (size_t k = 0; k < 8; k++)                                                        \
                load_##width(values, at + k * step, v[k]);                                        \
            for (int j = 0; j < RUN; j++)                                                         \
                sums[0][j] = HALVED(SQUARE);                                                      \
            for (int j = 0; j < RUN; j++)                                                         \
                sums[1][j] = HALVED(VALUE);                                                       \
            if (signs != NULL) {                                                                  \
                for (size_t k = 0; k < 8; k++) {                                                  \
                    memcpy(w[k], v[k], sizeof v[k]);                                              \
                    turn(w[k], (uint32_t)bits_from(signs, start + at + k * step));                \
                }                                                                                 \
                for (int j = 0; j < RUN; j++)                                                     \
                    sums[2][j] = HALVED(SIGNED);                                                  \
                memcpy(turned + at, sums[2], sizeof sums[2]);                                     \
            }                                                                                     \
            memcpy(squares + at, sums[0], sizeof sums[0]);                                        \
            memcpy(plain + at, sums[1], sizeof sums[1]);                                          \
        }                                                                                         \
    }
DEFINE_SUMS(2)
DEFINE_SUMS(4)

/* The rest of the halvings: 64 sums are left in front. */
WIDE static void halve(float *sums, size_t rows)
{
    while (rows > 1) {
        rows /= 2;
        const float *restrict more = sums + rows * LANES;
        float *restrict to = sums;
        for (size_t i = 0; i < rows * LANES; i++)
            to[i] += more[i];
    }
}

static double total(const float *sums)
{
    double wide[LANES];
    for (int i = 0; i < LANES; i++)
        wide[i] = sums[i];
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            wide[i] += wide[half + i];
    return wide[0];
}

#define LESS(x, y) ((x) < (y) ? (x) : (y))
#define MORE(x, y) ((x) > (y) ? (x) : (y))
#define DEFINE_EXTREMES(width)                                                                    \
    WIDE static void extremes_##width(In values, size_t count, double *ends)                      \
    {                                                                                             \
        float low[RUN], high[RUN], v[4][RUN];                                                     \
        uint8_t last[4 * RUN * 4];                                                                \
        for (size_t at = 0; at < count; at += 4 * RUN) {                                          \
            In from = values + at * width;                                                        \
            if (count - at < 4 * RUN) { /* the last few, and the very last once more */           \
                for (size_t j = 0; j < 4 * RUN; j++)                                              \
                    memcpy(last + j * width, from + LESS(j, count - at - 1) * width, width);      \
                from = last;                                                                      \
            }                                                                                     \
            for (size_t k = 0; k < 4; k++)                                                        \
                load_##width(from, k * RUN, v[k]);                                                \
            if (!at) {                                                                            \
                memcpy(low, v[0], sizeof low);                                                    \
                memcpy(high, v[0], sizeof high);                                                  \
            }                                                                                     \
            for (int j = 0; j < RUN; j++) {                                                       \
                float a = LESS(v[0][j], v[1][j]), b = LESS(v[2][j], v[3][j]), c = LESS(a, b);     \
                low[j] = LESS(c, low[j]);                                                         \
            }                                                                                     \
            for (int j = 0; j < RUN; j++) {                                                       \
                float a = MORE(v[0][j], v[1][j]), b = MORE(v[2][j], v[3][j]), c = MORE(a, b);     \
                high[j] = MORE(c, high[j]);                                                       \
            }                                                                                     \
        }                                                                                         \
        for (int j = 1; j < RUN; j++) {                                                           \
            low[0] = LESS(low[j], low[0]);                                                        \
            high[0] = MORE(high[j], high[0]);                                                     \
        }                                                                                         \
        ends[0] = low[0];                                                                         \
        ends[1] = high[0];                                                                        \
    }
DEFINE_EXTREMES(2)
DEFINE_EXTREMES(4)

/* --- called from Python ----------------------------------------------------------------------- */

#define MAX_BUFFERS 12

/* The buffers of one call, let go of together. */
typedef struct {
    Py_buffer held[MAX_BUFFERS];
    int count;
} Buffers;

static void let_go(Buffers *all)
{
    while (all->count)
        PyBuffer_Release(&all->held[--all->count]);
}

/* The bytes of a buffer; None gives NULL. -1 stands for an error. */
static int take(Buffers *all, PyObject *from, int writable, Out *data, size_t *size)
{
    *data = NULL;
    *size = 0;
    if (from == Py_None && !writable)
        return 0;
    Py_buffer *held = &all->held[all->count];
    if (PyObject_GetBuffer(from, held, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return -1;
    all->count++;
    *data = held->buf;
    *size = (size_t)held->len;
    return 0;
}

static PyObject *failed(Buffers *all, const char *why)
{
    let_go(all);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, why);
    return NULL;
}

static int is_word(int word) { return word == 1 || word == 2 || word == 4 || word == 8; }

#define WITH_WORD(word, call_1, call_2, call_4, call_8) \
    switch (word) {                                     \
    case 1: call_1; break;                              \
    case 2: call_2; break;                              \
    case 4: call_4; break;                              \
    default: call_8; break;                             \
    }

#define WITH_FLOAT(word, call_2, call_4) \
    if (word == 2) {                     \
        call_2;                          \
    } else {                             \
        call_4;                          \
    }

static PyObject *split(PyObject *self, PyObject *args)
{
    PyObject *objects[3];
    int word, turn;
    Buffers all = {.count = 0};
    Out new, old, planes;
    size_t size, other, room;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOii", &objects[0], &objects[1], &objects[2], &word, &turn))
        return NULL;
    if (take(&all, objects[0], 0, &new, &size) || take(&all, objects[1], 0, &old, &other) ||
        take(&all, objects[2], 1, &planes, &room))
        return failed(&all, "");
    if (!is_word(word) || size % (size_t)word || room != size || (old != NULL && other != size) ||
        turn < 0 || turn > 7)
        return failed(&all, "buffers do not fit each other");
    size_t count = size / (size_t)word;
    Py_BEGIN_ALLOW_THREADS
    WITH_WORD(word, split_1(new, old, planes, count, turn), split_2(new, old, planes, count, turn),
              split_4(new, old, planes, count, turn), split_8(new, old, planes, count, turn))
    Py_END_ALLOW_THREADS
    let_go(&all);
    Py_RETURN_NONE;
}

static PyObject *join(PyObject *self, PyObject *args)
{
    PyObject *given, *objects[2];
    int word, turn;
    Buffers all = {.count = 0};
    Out old, out, plane;
    In planes[8];
    size_t other, size, length;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!OOii", &PyList_Type, &given, &objects[0], &objects[1], &word,
                          &turn))
        return NULL;
    if (take(&all, objects[0], 0, &old, &other) || take(&all, objects[1], 1, &out, &size))
        return failed(&all, "");
    Py_ssize_t top = PyList_GET_SIZE(given);
    if (!is_word(word) || size % (size_t)word || (old != NULL && other != size) || top < 1 ||
        top > word || turn < 0 || turn > 7)
        return failed(&all, "buffers do not fit each other");
    size_t count = size / (size_t)word;
    for (Py_ssize_t i = 0; i < top; i++) {
        if (take(&all, PyList_GET_ITEM(given, i), 0, &plane, &length))
            return failed(&all, "");
        if (length != count)
            return failed(&all, "a plane has the wrong length");
        planes[i] = plane;
    }
    Py_BEGIN_ALLOW_THREADS
    WITH_WORD(word, join_1(planes, (int)top, old, out, count, turn),
              join_2(planes, (int)top, old, out, count, turn),
              join_4(planes, (int)top, old, out, count, turn),
              join_8(planes, (int)top, old, out, count, turn))
    Py_END_ALLOW_THREADS
    let_go(&all);
    Py_RETURN_NONE;
}

static PyObject *gather(PyObject *self, PyObject *args)
{
    PyObject *objects[4];
    int word;
    Buffers all = {.count = 0};
    Out new, old, bits, values;
    size_t size, other, packed, room, found = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOi", &objects[0], &objects[1], &objects[2], &objects[3], &word))
        return NULL;
    if (take(&all, objects[0], 0, &new, &size) || take(&all, objects[1], 0, &old, &other) ||
        take(&all, objects[2], 1, &bits, &packed) || take(&all, objects[3], 1, &values, &room))
        return failed(&all, "");
    if (!is_word(word) || old == NULL || other != size || size % (size_t)word || room < size ||
        packed < (size / (size_t)word + 7) / 8)
        return failed(&all, "buffers do not fit each other");
    size_t count = size / (size_t)word;
    Py_BEGIN_ALLOW_THREADS
    WITH_WORD(word, found = gather_1(new, old, bits, values, count),
              found = gather_2(new, old, bits, values, count),
              found = gather_4(new, old, bits, values, count),
              found = gather_8(new, old, bits, values, count))
    Py_END_ALLOW_THREADS
    let_go(&all);
    return PyLong_FromSize_t(found);
}

static PyObject *spread(PyObject *self, PyObject *args)
{
    PyObject *objects[4];
    int word;
    Buffers all = {.count = 0};
    Out bits, values, old, out;
    size_t packed, given, other, size;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOi", &objects[0], &objects[1], &objects[2], &objects[3], &word))
        return NULL;
    if (take(&all, objects[0], 0, &bits, &packed) || take(&all, objects[1], 0, &values, &given) ||
        take(&all, objects[2], 0, &old, &other) || take(&all, objects[3], 1, &out, &size))
        return failed(&all, "");
    if (!is_word(word) || bits == NULL || values == NULL || old == NULL || other != size ||
        size % (size_t)word || given % (size_t)word)
        return failed(&all, "buffers do not fit each other");
    size_t count = size / (size_t)word, many = given / (size_t)word, set = 0;
    if (packed != (count + 7) / 8)
        return failed(&all, "buffers do not fit each other");
    for (size_t i = 0; i < count; i += 8)
        set += COUNT(set_bits(bits, i, count));
    if (set != many)
        return failed(&all, "there are more or fewer values than places");
    Py_BEGIN_ALLOW_THREADS
    WITH_WORD(word, spread_1(bits, values, many, old, out, count), spread_2(bits, values, many, old, out, count),
              spread_4(bits, values, many, old, out, count), spread_8(bits, values, many, old, out, count))
    Py_END_ALLOW_THREADS
    let_go(&all);
    Py_RETURN_NONE;
}

static PyObject *seek(PyObject *self, PyObject *args)
{
    PyObject *objects[4];
    int word;
    Py_ssize_t before;
    Buffers all = {.count = 0};
    Out new, old, gaps, values;
    size_t size, other, places, room, skipped, found = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOin", &objects[0], &objects[1], &objects[2], &objects[3], &word,
                          &before))
        return NULL;
    if (take(&all, objects[0], 0, &new, &size) || take(&all, objects[1], 0, &old, &other) ||
        take(&all, objects[2], 1, &gaps, &places) || take(&all, objects[3], 1, &values, &room))
        return failed(&all, "");
    if (!is_word(word) || old == NULL || other != size || size % (size_t)word || room < size ||
        before < 0 || places / 4 < size / (size_t)word)
        return failed(&all, "buffers do not fit each other");
    size_t count = size / (size_t)word;
    skipped = (size_t)before;
    Py_BEGIN_ALLOW_THREADS
    WITH_WORD(word, found = seek_1(new, old, gaps, values, count, &skipped),
              found = seek_2(new, old, gaps, values, count, &skipped),
              found = seek_4(new, old, gaps, values, count, &skipped),
              found = seek_8(new, old, gaps, values, count, &skipped))
    Py_END_ALLOW_THREADS
    let_go(&all);
    return Py_BuildValue("nn", (Py_ssize_t)found, (Py_ssize_t)skipped);
}

static PyObject *scatter(PyObject *self, PyObject *args)
{
    PyObject *objects[3];
    int word;
    Py_ssize_t at, after = -1;
    Buffers all = {.count = 0};
    Out gaps, values, out;
    size_t places, given, size;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOin", &objects[0], &objects[1], &objects[2], &word, &at))
        return NULL;
    if (take(&all, objects[0], 0, &gaps, &places) || take(&all, objects[1], 0, &values, &given) ||
        take(&all, objects[2], 1, &out, &size))
        return failed(&all, "");
    if (!is_word(word) || places % 4 || given % (size_t)word || size % (size_t)word || at < 0 ||
        places / 4 != given / (size_t)word)
        return failed(&all, "buffers do not fit each other");
    size_t count = size / (size_t)word, many = places / 4;
    Py_BEGIN_ALLOW_THREADS
    WITH_WORD(word, after = scatter_1(gaps, values, many, out, count, (size_t)at),
              after = scatter_2(gaps, values, many, out, count, (size_t)at),
              after = scatter_4(gaps, values, many, out, count, (size_t)at),
              after = scatter_8(gaps, values, many, out, count, (size_t)at))
    Py_END_ALLOW_THREADS
    let_go(&all);
    return PyLong_FromSsize_t(after);
}

static PyObject *plus_product(PyObject *self, PyObject *args)
{
    PyObject *objects[4];
    int mantissa, wide;
    Py_ssize_t rank, skip;
    Buffers all = {.count = 0};
    Out left, right, base, out;
    size_t tall, broad, other, size;
    void (*work)(const Product *) = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOiinn", &objects[0], &objects[1], &objects[2], &objects[3],
                          &mantissa, &wide, &rank, &skip))
        return NULL;
    if (take(&all, objects[0], 0, &left, &tall) || take(&all, objects[1], 0, &right, &broad) ||
        take(&all, objects[2], 0, &base, &other) || take(&all, objects[3], 1, &out, &size))
        return failed(&all, "");
    size_t word = mantissa == 7 ? 2 : mantissa == 23 ? 4 : 8;
    if (mantissa == 7)
        work = wide == 4 ? product_bf16_single : wide == 8 ? product_bf16_double : NULL;
    else if (mantissa == 23)
        work = wide == 4 ? product_f32_single : wide == 8 ? product_f32_double : NULL;
    else if (mantissa == 52)
        work = wide == 8 ? product_f64_double : NULL;
    if (work == NULL || base == NULL || rank < 1 || skip < 0 || other != size || size % word ||
        ((size_t)left | (size_t)right) % (size_t)wide)
        return failed(&all, "buffers do not fit each other");
    size_t line = (size_t)rank * (size_t)wide, rows = tall / line, columns = broad / line;
    Product product = {left, right, (size_t)rank, columns, (size_t)skip, base, out, size / word};
    if (tall % line || broad % line || columns < 1 || product.skip >= columns ||
        (product.skip + product.count + columns - 1) / columns > rows)
        return failed(&all, "buffers do not fit each other");
    Py_BEGIN_ALLOW_THREADS
    work(&product);
    Py_END_ALLOW_THREADS
    let_go(&all);
    Py_RETURN_NONE;
}

static PyObject *totals(PyObject *self, PyObject *args)
{
    PyObject *objects[5];
    int word;
    Py_ssize_t each, start;
    Buffers all = {.count = 0};
    Out values, room, found, bins, signs;
    size_t size, spare, places, kept, known, part = 1;
    (void)self;
    if (!PyArg_ParseTuple(args, "OinOOOOn", &objects[0], &word, &each, &objects[1], &objects[2],
                          &objects[3], &objects[4], &start))
        return NULL;
    if (take(&all, objects[0], 0, &values, &size) || take(&all, objects[1], 1, &room, &spare) ||
        take(&all, objects[2], 1, &found, &places) || take(&all, objects[3], 1, &bins, &kept) ||
        take(&all, objects[4], 0, &signs, &known))
        return failed(&all, "");
    if ((word != 2 && word != 4) || each < 1 || each > MOST_VALUES || start < 0 || values == NULL ||
        size % ((size_t)word * (size_t)each) || (size_t)found % sizeof(double) ||
        (size_t)room % sizeof(float))
        return failed(&all, "buffers do not fit each other");
    size_t count = (size_t)each, row = count * (size_t)word, rows = size / row;
    while (part * 8 * LANES < count)
        part *= 2;
    size_t step = part * LANES, padded = step * 8, needed = 3 * step * sizeof(float) + padded * (size_t)word;
    if (spare < needed || places / (4 * sizeof(double)) < rows ||
        (signs != NULL && (kept / (LANES * sizeof(float)) < rows || known % 8 ||
                           (size_t)start > known * 8 || known * 8 - (size_t)start < padded + LANES)))
        return failed(&all, "buffers do not fit each other");
    float *squares = (float *)room, *plain = squares + step, *turned = plain + step;
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < rows; i++) {
        In from = values + i * row;
        double *numbers = (double *)found + 4 * i;
        WITH_FLOAT(word, extremes_2(from, count, numbers + 2), extremes_4(from, count, numbers + 2))
        if (count < padded) {
            Out copy = (Out)(turned + step);
            memcpy(copy, from, row);
            memset(copy + row, 0, padded * (size_t)word - row);
            from = copy;
        }
        WITH_FLOAT(word, sums_2(from, part, signs, (size_t)start, squares, plain, turned),
                   sums_4(from, part, signs, (size_t)start, squares, plain, turned))
        halve(squares, part);
        halve(plain, part);
        numbers[0] = total(squares);
        numbers[1] = total(plain);
        if (signs != NULL) {
            halve(turned, part);
            for (int j = 0; j < LANES; j++)
                turned[j] += 0.0f; /* a zero has no sign */
            memcpy(bins + i * LANES * sizeof(float), turned, LANES * sizeof(float));
        }
    }
    Py_END_ALLOW_THREADS
    let_go(&all);
    Py_RETURN_NONE;
}

/* Write all of a buffer in pieces, from an offset on or, below 0, from where the file stands. Pieces
 * end at multiples of their size in the file: what ends elsewhere has the rest of its last page
 * cleared first. */
static PyObject *write_pieces(PyObject *self, PyObject *args)
{
    PyObject *object;
    int handle;
    long long offset;
    Py_ssize_t piece;
    Buffers all = {.count = 0};
    Out data;
    size_t size, done = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "iOLn", &handle, &object, &offset, &piece))
        return NULL;
    if (take(&all, object, 0, &data, &size) || piece < 1)
        return failed(&all, "pieces have at least a byte");
    off_t first = offset < 0 ? lseek(handle, 0, SEEK_CUR) : (off_t)offset;
    size_t over = first > 0 ? (size_t)first % (size_t)piece : 0;
    while (done < size) {
        ssize_t got = 0;
        Py_BEGIN_ALLOW_THREADS
        while (done < size && got >= 0) {
            size_t left = size - done, next = (size_t)piece - (over + done) % (size_t)piece;
            next = next < left ? next : left;
            got = offset < 0 ? write(handle, data + done, next)
                             : pwrite(handle, data + done, next, (off_t)offset + (off_t)done);
            done += got > 0 ? (size_t)got : 0;
        }
        Py_END_ALLOW_THREADS
        if (got < 0 && (errno != EINTR || PyErr_CheckSignals())) {
            if (!PyErr_Occurred())
                PyErr_SetFromErrno(PyExc_OSError);
            return failed(&all, "");
        }
    }
    let_go(&all);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"split", split, METH_VARARGS, "Cut words, or folded differences, into byte planes."},
    {"join", join, METH_VARARGS, "Join byte planes to words, or add the differences they hold."},
    {"gather", gather, METH_VARARGS, "The folded differences of changed words, and a bitmap."},
    {"spread", spread, METH_VARARGS, "Undo gather."},
    {"seek", seek, METH_VARARGS, "The folded differences of changed words, and gaps."},
    {"scatter", scatter, METH_VARARGS, "Undo seek."},
    {"plus_product", plus_product, METH_VARARGS, "Floats plus a thin product, rounded once."},
    {"totals", totals, METH_VARARGS, "Sums of squares, sums and extremes of rows, and a sketch."},
    {"write", write_pieces, METH_VARARGS, "Write all of a buffer, a piece at a time."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_loops", "The loops over numbers that cost most.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__loops(void)
{
    count_bits();
    return PyModule_Create(&module);
}
