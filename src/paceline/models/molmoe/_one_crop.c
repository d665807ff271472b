/* The vision tower for one crop of a small MolmoE, what `one_crop.py` calls: the same function as `VisionTower`.
 *
 * An overview is one crop, and looking at it is all that a request does before its decision. Of a tower this small, torch
 * spends more time on starting its hundred operations than on computing them; here there is one call, and no lock of the
 * interpreter is held during it.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define SERVED /* of a kind that this file is written for; elsewhere nothing is served */
#endif

/* A logit whose share of a softmax is next to nothing, e^-80. */
#define NOTHING -1e30f

#ifdef SERVED
/* Lanes of a vector, those 1, 2, 4 and 8 apart in each other's place. */
static const int32_t ACROSS[4][16] = {
    {1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14},
    {2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13},
    {4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11},
    {8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7},
};

#define LANES 16
#define NAME(x) x##_of_sixteens
#define TARGET __attribute__((target("avx512f,avx512dq,fma")))
#define ROWS_OF_32 8
#define ROWS_OF_16 8
#include "_one_crop_kernels.h"

#define LANES 8
#define NAME(x) x##_of_eights
#define TARGET __attribute__((target("avx2,fma")))
#define ROWS_OF_32 3
#define ROWS_OF_16 6
#include "_one_crop_kernels.h"
#endif

typedef struct {
    const char *name;
    void (*multiply)(const float *a, int a_step, int rows, int depth, const float *b, int b_step, int columns,
                     const float *bias, float *out, int out_step, int added);
    void (*silu)(const float *x, const float *other, int count, float *out);
    void (*normalise)(const float *x, int rows, int width, const float *factor, const float *offset, float *out);
    void (*softmax)(float *x, int rows, int step, float scale);
    void (*attend)(const float *query, const float *const *row, int width, int heads, float *out);
} Kernels;

#ifdef SERVED
#define KERNELS(kind)                                                                                                  \
    {#kind, multiply_of_##kind, silu_of_##kind, normalise_of_##kind, softmax_of_##kind, attend_of_##kind}
static const Kernels KINDS[] = {KERNELS(sixteens), KERNELS(eights)}; /* the widest first */
enum { KIND_COUNT = 2 };

static int supported(int kind)
{
    return kind == 0 ? __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
                     : __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#else
static const Kernels KINDS[1];
enum { KIND_COUNT = 0 };

static int supported(int kind) { return kind < 0; }
#endif

/* The widest kernels that the processor has, or those asked for; NULL where it lacks them. */
static const Kernels *kernels(const char *asked)
{
    for (int kind = 0; kind < KIND_COUNT; kind++)
        if (supported(kind) && (asked == NULL || strcmp(asked, KINDS[kind].name) == 0))
            return &KINDS[kind];
    return NULL;
}

enum { MOST_FEATURES = 8, MOST_GRID = 64, MOST_WIDTH = 4096, MOST_PATCH = 1 << 16 };

typedef struct {
    const float *attention_factor, *attention_offset, *qkv, *qkv_bias, *out, *out_bias;
    const float *mlp_factor, *mlp_offset, *up, *up_bias, *down, *down_bias;
} Block;

typedef struct {
    PyObject_HEAD
    int grid, patch, width, heads, mlp, blocks, pool_heads, pool_width, hidden, tokens; /* tokens: their width */
    int features, feature[MOST_FEATURES]; /* blocks whose outputs are kept */
    float *memory;
    const float *embedding, *class_token, *positions, *first_factor, *first_offset, *pads;
    const float *query, *query_bias, *key_value, *key_value_bias, *pool_out, *pool_out_bias, *gate_up, *project;
    Block *block;
    float *filling; /* added to logits: nothing to the keys, `NOTHING` to what fills their row up */
    const Kernels *run;
} Tower;

/* The first place in a block of memory where a line of the cache begins. */
static float *aligned(float *memory) { return (float *)(((uintptr_t)memory + 63) / 64 * 64); }

static int filled(int columns) { return (columns + 15) / 16 * 16; }

/* Numbers of work for one call. */
static size_t work_size(const Tower *self)
{
    size_t seen = (size_t)self->grid * self->grid + 1, step = filled((int)seen), windows = seen / 4;
    size_t mlp = seen * self->mlp, scores = (seen + self->width / self->heads) * step;
    size_t before = seen * 5 * self->width + (mlp > scores ? mlp : scores);
    size_t after = seen * 2 * self->pool_width +
                   windows * (self->width * self->features + 3 * self->pool_width + 3 * self->hidden);
    return before > after ? before : after;
}

/* One block on `x` (seen, width); `work` holds (seen, 4 width + the rest). */
static void run_block(const Tower *self, const Block *block, float *x, int seen, float *work)
{
    int width = self->width, head = width / self->heads, step = filled(seen);
    float *normed = work, *qkv = normed + (size_t)seen * width, *rest = qkv + (size_t)seen * 3 * width;
    const Kernels *run = self->run;
    run->normalise(x, seen, width, block->attention_factor, block->attention_offset, normed);
    run->multiply(normed, width, seen, width, block->qkv, 3 * width, 3 * width, block->qkv_bias, qkv, 3 * width, 0);
    float *scores = rest, *turned = rest + (size_t)seen * step, *mixed = normed;
    for (int start = 0; start < width; start += head) {
        for (int i = 0; i < head; i++) {
            for (int key = 0; key < seen; key++)
                turned[i * step + key] = qkv[(size_t)key * 3 * width + width + start + i];
            memset(turned + i * step + seen, 0, (step - seen) * sizeof(float));
        }
        run->multiply(qkv + start, 3 * width, seen, head, turned, step, step, self->filling, scores, step, 0);
        run->softmax(scores, seen, step, 1.0f / sqrtf((float)head));
        run->multiply(scores, step, seen, seen, qkv + 2 * width + start, 3 * width, head, NULL, mixed + start, width, 0);
    }
    run->multiply(mixed, width, seen, width, block->out, width, width, block->out_bias, x, width, 1);
    run->normalise(x, seen, width, block->mlp_factor, block->mlp_offset, normed);
    run->multiply(normed, width, seen, width, block->up, self->mlp, self->mlp, block->up_bias, rest, self->mlp, 0);
    run->silu(rest, NULL, seen * self->mlp, rest);
    run->multiply(rest, self->mlp, seen, self->mlp, block->down, width, width, block->down_bias, x, width, 1);
}

/* Features (1 + patches, features), the class token's first; zeros where every number of the patches is -1. */
static void read_features(const Tower *self, const float *patches, float *features, float *work)
{
    int count = self->grid * self->grid, width = self->width, kept = width * self->features;
    int empty = 1;
    for (int i = 0; i < count * self->patch && empty; i++)
        empty = patches[i] == -1.0f;
    if (empty) {
        memset(features, 0, (size_t)(count + 1) * kept * sizeof(float));
        return;
    }
    float *x = work, *rest = work + (size_t)(count + 1) * width;
    memcpy(x, self->class_token, width * sizeof(float));
    self->run->multiply(patches, self->patch, count, self->patch, self->embedding, width, width, NULL, x + width, width, 0);
    for (int i = 0; i < (count + 1) * width; i++)
        x[i] += self->positions[i];
    self->run->normalise(x, count + 1, width, self->first_factor, self->first_offset, x);
    for (int block = 0; block < self->blocks; block++) {
        run_block(self, &self->block[block], x, count + 1, rest);
        for (int part = 0; part < self->features; part++)
            if (self->feature[part] == block)
                for (int row = 0; row <= count; row++)
                    memcpy(features + (size_t)row * kept + part * width, x + (size_t)row * width, width * sizeof(float));
    }
}

/* `VisionTower.pool` of one crop: tokens (patches / 4, tokens) from the patches' rows of `features`. */
static void pool(const Tower *self, const float *features, const float *mask, float *padded, float *tokens, float *work)
{
    int count = self->grid * self->grid, half = self->grid / 2, windows = half * half;
    int kept = self->width * self->features, width = self->pool_width, hidden = self->hidden;
    float *both = work, *mean = both + (size_t)count * 2 * width, *query = mean + (size_t)windows * kept;
    float *mixed = query + (size_t)windows * width, *out = mixed + (size_t)windows * width;
    float *gate_up = out + (size_t)windows * width, *gated = gate_up + (size_t)windows * 2 * hidden;
    const Kernels *run = self->run;
    for (int row = 0; row < count; row++) {
        const float *pad = mask[row] == 0.0f ? self->pads : mask[row] < 1.0f ? self->pads + kept : NULL;
        for (int i = 0; i < kept; i++)
            padded[(size_t)row * kept + i] = features[(size_t)row * kept + i] + (pad == NULL ? 0.0f : pad[i]);
    }
    run->multiply(padded, kept, count, kept, self->key_value, 2 * width, 2 * width, self->key_value_bias, both, 2 * width,
                  0);
    for (int window = 0; window < windows; window++) {
        const float *first = padded + (size_t)(window / half * 2 * self->grid + window % half * 2) * kept;
        for (int i = 0; i < kept; i++) {
            const float *above = first + i, *below = above + (size_t)self->grid * kept;
            mean[(size_t)window * kept + i] = (above[0] + above[kept] + below[0] + below[kept]) * 0.25f;
        }
    }
    run->multiply(mean, kept, windows, kept, self->query, width, width, self->query_bias, query, width, 0);
    for (int window = 0; window < windows; window++) {
        const float *above = both + (size_t)(window / half * 2 * self->grid + window % half * 2) * 2 * width;
        const float *below = above + (size_t)self->grid * 2 * width;
        const float *row[4] = {above, above + 2 * width, below, below + 2 * width};
        run->attend(query + (size_t)window * width, row, width, self->pool_heads, mixed + (size_t)window * width);
    }
    run->multiply(mixed, width, windows, width, self->pool_out, width, width, self->pool_out_bias, out, width, 0);
    run->multiply(out, width, windows, width, self->gate_up, 2 * hidden, 2 * hidden, NULL, gate_up, 2 * hidden, 0);
    for (int window = 0; window < windows; window++)
        run->silu(gate_up + (size_t)window * 2 * hidden, gate_up + (size_t)window * 2 * hidden + hidden, hidden,
                  gated + (size_t)window * hidden);
    run->multiply(gated, hidden, windows, hidden, self->project, self->tokens, self->tokens, NULL, tokens, self->tokens, 0);
}

/* Mean (tokens,) over the tokens. */
static void mean_token(const Tower *self, const float *tokens, float *mean)
{
    int count = self->grid * self->grid / 4, width = self->tokens;
    memset(mean, 0, width * sizeof(float));
    for (int row = 0; row < count; row++)
        for (int i = 0; i < width; i++)
            mean[i] += tokens[(size_t)row * width + i];
    for (int i = 0; i < width; i++)
        mean[i] /= count;
}

/* A contiguous buffer of so many float32 numbers; 0, with an error set, where the object is none. */
static int numbers(PyObject *object, const char *name, size_t count, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0)
        return 0;
    if (strcmp(view->format, "f") == 0 && (size_t)view->len == count * sizeof(float))
        return 1;
    PyErr_Format(PyExc_ValueError, "%s: got %zd bytes of format %s, expected %zu numbers of float32", name, view->len,
                 view->format, count);
    PyBuffer_Release(view);
    return 0;
}

static PyObject *tower_read(Tower *self, PyObject *const *args, Py_ssize_t count)
{
    enum { ARRAYS = 5 };
    static const char *names[] = {"patches", "mask", "features", "tokens", "mean"};
    if (count != ARRAYS) {
        PyErr_SetString(PyExc_TypeError, "read: expected patches, mask, features, tokens, mean");
        return NULL;
    }
    size_t patches = (size_t)self->grid * self->grid, kept = (size_t)self->width * self->features;
    size_t sizes[] = {patches * self->patch, patches, (patches + 1) * kept, patches / 4 * self->tokens, self->tokens};
    Py_buffer views[ARRAYS];
    int held = 0;
    while (held < ARRAYS &&
           numbers(args[held], names[held], sizes[held], held < 2 ? PyBUF_SIMPLE : PyBUF_WRITABLE, &views[held]))
        held++;
    float *memory = held == ARRAYS ? PyMem_Malloc((patches * kept + work_size(self)) * sizeof(float) + 64) : NULL;
    if (memory != NULL) {
        float *features = views[2].buf, *work = aligned(memory), *padded = work;
        Py_BEGIN_ALLOW_THREADS
        read_features(self, views[0].buf, features, work);
        pool(self, features + kept, views[1].buf, padded, views[3].buf, work + patches * kept);
        mean_token(self, views[3].buf, views[4].buf);
        Py_END_ALLOW_THREADS
        PyMem_Free(memory);
    } else if (held == ARRAYS)
        PyErr_NoMemory();
    for (int i = 0; i < held; i++)
        PyBuffer_Release(&views[i]);
    if (memory == NULL)
        return NULL;
    Py_RETURN_NONE;
}

/* Says where each of the weights is, which come in this order from `start` on; how many they are, where that is NULL. */
static size_t place_weights(Tower *self, const float *start)
{
    size_t width = self->width, patches = (size_t)self->grid * self->grid, kept = width * self->features, used = 0;
#define NEXT(field, count)                                                                                             \
    do {                                                                                                               \
        if (start != NULL)                                                                                             \
            field = start + used;                                                                                      \
        used += (count);                                                                                               \
    } while (0)
    NEXT(self->embedding, self->patch * width);
    NEXT(self->class_token, width);
    NEXT(self->positions, (patches + 1) * width);
    NEXT(self->first_factor, width);
    NEXT(self->first_offset, width);
    for (int i = 0; i < self->blocks; i++) {
        NEXT(self->block[i].attention_factor, width);
        NEXT(self->block[i].attention_offset, width);
        NEXT(self->block[i].qkv, width * 3 * width);
        NEXT(self->block[i].qkv_bias, 3 * width);
        NEXT(self->block[i].out, width * width);
        NEXT(self->block[i].out_bias, width);
        NEXT(self->block[i].mlp_factor, width);
        NEXT(self->block[i].mlp_offset, width);
        NEXT(self->block[i].up, width * self->mlp);
        NEXT(self->block[i].up_bias, self->mlp);
        NEXT(self->block[i].down, self->mlp * width);
        NEXT(self->block[i].down_bias, width);
    }
    NEXT(self->pads, 2 * kept);
    NEXT(self->query, kept * self->pool_width);
    NEXT(self->query_bias, self->pool_width);
    NEXT(self->key_value, kept * 2 * self->pool_width);
    NEXT(self->key_value_bias, 2 * self->pool_width);
    NEXT(self->pool_out, (size_t)self->pool_width * self->pool_width);
    NEXT(self->pool_out_bias, self->pool_width);
    NEXT(self->gate_up, (size_t)self->pool_width * 2 * self->hidden);
    NEXT(self->project, (size_t)self->hidden * self->tokens);
#undef NEXT
    return used;
}

static int check_sizes(const Tower *self)
{
    const int widths[] = {self->width, self->mlp, self->pool_width, self->hidden, self->tokens};
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        if (widths[i] < 16 || widths[i] % 16 || widths[i] > MOST_WIDTH)
            return 0;
    if (self->grid < 2 || self->grid % 2 || self->grid > MOST_GRID || self->patch < 1 || self->patch > MOST_PATCH)
        return 0;
    if (self->heads < 1 || self->width % (16 * self->heads) || self->pool_heads < 1 ||
        self->pool_width % (16 * self->pool_heads))
        return 0;
    if (self->blocks < 1 || self->features < 1)
        return 0;
    for (int i = 0; i < self->features; i++)
        if (self->feature[i] < 0 || self->feature[i] >= self->blocks)
            return 0;
    return 1;
}

static PyObject *tower_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Tower *self = (Tower *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    static char *names[] = {"sizes", "features", "weights", "kernels", NULL};
    PyObject *features, *weights;
    const char *asked = NULL;
    Py_buffer view;
    int good = PyArg_ParseTupleAndKeywords(args, kwargs, "(iiiiiiiiii)O!O|z", names, &self->grid, &self->patch,
                                           &self->width, &self->heads, &self->mlp, &self->blocks, &self->pool_heads,
                                           &self->pool_width, &self->hidden, &self->tokens, &PyTuple_Type, &features,
                                           &weights, &asked);
    Py_ssize_t kept = good ? PyTuple_Size(features) : 0;
    for (Py_ssize_t i = 0; good && i < kept && kept <= MOST_FEATURES; i++) {
        self->feature[i] = (int)PyLong_AsLong(PyTuple_GetItem(features, i));
        good = !PyErr_Occurred();
    }
    self->features = kept <= MOST_FEATURES ? (int)kept : 0;
    if (good && !check_sizes(self)) {
        PyErr_Format(PyExc_ValueError,
                     "sizes: expected widths and heads of multiples of 16 up to %d, an even grid up to %d, patches of up to "
                     "%d numbers, and features of 1 to %d of its blocks",
                     MOST_WIDTH, MOST_GRID, MOST_PATCH, MOST_FEATURES);
        good = 0;
    }
    if (good) {
        self->run = kernels(asked);
        good = self->run != NULL;
        if (!good)
            PyErr_Format(PyExc_ImportError, "kernels: got %s, but nothing was compiled for this processor and compiler that is",
                         asked == NULL ? "none" : asked);
    }
    size_t count = good ? place_weights(self, NULL) : 0;
    good = good && numbers(weights, "weights", count, PyBUF_SIMPLE, &view);
    if (good) {
        size_t keys = (size_t)self->grid * self->grid + 1, step = filled((int)keys), all = (count + 15) / 16 * 16;
        self->memory = PyMem_Malloc((all + step) * sizeof(float) + self->blocks * sizeof(Block) + 64);
        if (self->memory == NULL)
            PyErr_NoMemory();
        else {
            float *start = aligned(self->memory);
            memcpy(start, view.buf, count * sizeof(float));
            self->filling = start + all;
            for (size_t key = 0; key < step; key++)
                self->filling[key] = key < keys ? 0.0f : NOTHING;
            self->block = (Block *)(self->filling + step);
            place_weights(self, start);
        }
        PyBuffer_Release(&view);
    }
    if (self->memory == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void tower_dealloc(Tower *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyMem_Free(self->memory);
    release(self);
    Py_DECREF(type);
}

static PyMethodDef tower_methods[] = {
    {"read", (PyCFunction)(void (*)(void))tower_read, METH_FASTCALL,
     "Write features, tokens and the mean token of a crop, from its patches and their masks, into the last three."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot tower_slots[] = {
    {Py_tp_doc, "A vision tower of float32 weights, for one crop at a time. Immutable."},
    {Py_tp_new, tower_new},
    {Py_tp_dealloc, tower_dealloc},
    {Py_tp_methods, tower_methods},
    {0, NULL},
};

static PyType_Spec tower_spec = {
    .name = "paceline.models.molmoe._one_crop.Tower",
    .basicsize = sizeof(Tower),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = tower_slots,
};

static PyObject *module_kernels(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    PyObject *names = PyList_New(0);
    for (int kind = 0; names != NULL && kind < KIND_COUNT; kind++) {
        PyObject *name = supported(kind) ? PyUnicode_FromString(KINDS[kind].name) : NULL;
        if (name != NULL && PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyMethodDef functions[] = {
    {"kernels", module_kernels, METH_NOARGS, "Names of the kernels that this processor has, the widest first."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "paceline.models.molmoe._one_crop",
    .m_doc = "The vision tower of a small MolmoE for one crop, compiled.",
    .m_size = 0,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__one_crop(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module == NULL ? NULL : PyType_FromSpec(&tower_spec);
    if (type == NULL || PyModule_AddObjectRef(module, "Tower", type) < 0) {
        Py_XDECREF(module);
        module = NULL;
    }
    Py_XDECREF(type);
    return module;
}
