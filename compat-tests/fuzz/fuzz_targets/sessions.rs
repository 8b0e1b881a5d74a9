#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| persist_pubsub_compat_tests::fuzz::sessions::run(data));
