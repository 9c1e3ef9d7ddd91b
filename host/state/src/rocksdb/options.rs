//! How RocksDB is set up: for many point reads and writes of small rows, with little memory and few threads.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, DBCompressionType, DataBlockIndexType, Error, LogLevel, Options,
};

use super::memory::Memory;

/// A read fetches and checks one block: small ones hold fewer rows that nobody asked for.
const BLOCK_BYTES: usize = 4 << 10;
/// One key of a hundred that is not there costs a read.
const FILTER_BITS_PER_KEY: f64 = 10.0;
/// A file of the first level that is sorted, and of those below: large enough that a GiB has few of them, small enough that a
/// change costs a checkpoint little.
const FILE_BYTES: u64 = 32 << 20;
/// Flushes and compactions at a time, in all databases of the process.
const BACKGROUND_JOBS: i32 = 2;

/// Options that the crate has no functions for. What memtables hold when a database is closed is not needed. Rows come sorted, so each goes
/// into the memtable near the one before, which is looked for by its key group.
const WITHOUT_FUNCTIONS: &str = "avoid_flush_during_shutdown=true;memtable_insert_with_hint_prefix_extractor=fixed:2";
/// What indexes and filters take: for a key, and for the files a part of their bytes (an entry for each block).
const INDEX_BITS_PER_KEY: u64 = FILTER_BITS_PER_KEY as u64;
const INDEX_PART: u64 = BLOCK_BYTES as u64 / 24;
/// How new files hold them once they have become large: a state much larger than memory needs only the pieces in use. Looking for the
/// piece costs a fifth of the CPU of point reads and writes, with 10 million keys.
pub(super) const IN_PIECES: (&str, &str) =
    ("block_based_table_factory", "{index_type=kTwoLevelIndexSearch;partition_filters=true}");

/// Bytes of the indexes and filters of so many keys in files of so many bytes.
pub(super) fn index_bytes(keys: u64, file_bytes: u64) -> usize {
    (keys * INDEX_BITS_PER_KEY / 8 + file_bytes / INDEX_PART) as usize
}

pub(super) fn options(memory: &Memory) -> Result<Options, Error> {
    let mut options = Options::default().get_options_from_string(WITHOUT_FUNCTIONS)?;
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&blocks(memory));
    memtables(&mut options, memory);
    levels(&mut options);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_keep_log_file_num(1);
    options.set_log_level(LogLevel::Error);
    Ok(options)
}

fn memtables(options: &mut Options, memory: &Memory) {
    options.set_write_buffer_manager(&memory.memtables);
    options.set_write_buffer_size(memory.memtable_bytes);
    options.set_max_write_buffer_number(3);
    // Most reads are for keys that are not in a memtable.
    options.set_memtable_prefix_bloom_ratio(0.1);
    options.set_memtable_whole_key_filtering(true);
}

fn levels(options: &mut Options) {
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(FILE_BYTES);
    options.set_max_bytes_for_level_base(8 * FILE_BYTES);
    options.set_compression_type(DBCompressionType::None);
    // Spreads the work of the disk.
    options.set_bytes_per_sync(1 << 20);
}

fn blocks(memory: &Memory) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&memory.blocks);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_format_version(6);
    blocks.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    // As a whole while they fit into memory, see `IN_PIECES`.
    blocks.set_index_type(BlockBasedIndexType::BinarySearch);
    blocks.set_partition_filters(false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks
}
