//! Tidemill and Flink beside each other, on cases at random. Needs Java and Flink's jars, which `./dev bench peers` fetches; without them each
//! comparison says so and is done.

mod flink;
mod windows;
