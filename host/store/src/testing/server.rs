//! MinIO, started by a test on a free port of this machine, with a directory of its own, and ended with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::StoreOptions;

/// Both the id and the secret.
const KEY: &str = "tidemill-test";
/// On a busy machine.
const START_TIME: Duration = Duration::from_secs(60);
const POLL_TIME: Duration = Duration::from_millis(20);
/// Somebody else may take the port between its choice and the start.
const PORTS_MAX: usize = 5;

/// Runs the server, and ends it and removes its directory when its input ends: even if the test is killed.
const RUN: &str = r#"
"$MINIO" server --quiet --address "$ADDRESS" "$FOLDER" >"$FOLDER.log" 2>&1 &
read -r _
kill -9 $!
wait $! 2>/dev/null
rm -rf "$FOLDER" "$FOLDER.log"
"#;

pub struct S3Server {
    process: Child,
    address: String,
    folder: PathBuf,
}

impl S3Server {
    /// Panics, saying what to do, if there is no server to start: it is for tests.
    pub fn start() -> Self {
        let minio = minio();
        assert!(
            minio.is_file(),
            "the S3 server of the tests is missing (`{}`): `./dev setup` builds it",
            minio.display()
        );
        let started = (0..PORTS_MAX).find_map(|_| Self::try_start(&minio));
        started.unwrap_or_else(|| panic!("`{}` does not answer", minio.display()))
    }

    fn try_start(minio: &Path) -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).ok()?.to_string();
        let folder = std::env::temp_dir().join(format!("tidemill-s3-{}", crate::unique()));
        std::fs::create_dir_all(&folder).ok()?;
        let process = Command::new("sh")
            .args(["-c", RUN])
            .envs([
                ("MINIO_ROOT_USER", KEY),
                ("MINIO_ROOT_PASSWORD", KEY),
                ("MINIO_BROWSER", "off"),
                ("MINIO_UPDATE", "off"),
            ])
            .envs([("MINIO", minio.as_os_str()), ("ADDRESS", address.as_ref()), ("FOLDER", folder.as_os_str())])
            .stdin(Stdio::piped())
            .spawn()
            .ok()?;
        let server = Self { process, address, folder };
        let deadline = Instant::now() + START_TIME;
        while Instant::now() < deadline {
            if server.is_ready() {
                return Some(server);
            }
            std::thread::sleep(POLL_TIME);
        }
        None
    }

    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(&self.address)?;
            stream.set_read_timeout(Some(START_TIME))?;
            write!(stream, "GET /minio/health/ready HTTP/1.0\r\nHost: {}\r\n\r\n", self.address)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.lines().next().is_some_and(|status| status.contains(" 200 ")))
    }

    /// Loses the parts of all uploads under way, as it does itself when the request to complete one is cut off at the wrong moment:
    /// they are there, but what it knows of them is not. Their number.
    pub fn lose_parts(&self) -> usize {
        fn sweep(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let lost = entries.map(|entry| {
                let (path, name) = (entry.path(), entry.file_name());
                let is_note = name.to_string_lossy().starts_with("part.") && name.to_string_lossy().ends_with(".meta");
                if path.is_dir() { sweep(&path) } else { usize::from(is_note && std::fs::remove_file(&path).is_ok()) }
            });
            lost.sum()
        }
        sweep(&self.folder.join(".minio.sys").join("multipart"))
    }

    /// How to reach it.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            endpoint: Some(format!("http://{}", self.address)),
            region: Some("us-east-1".into()),
            keys: Some((KEY.into(), KEY.into())),
        }
    }

    /// The same for other processes, as variables of their environment.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", KEY.into()),
        ]
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Where `./dev` puts it.
fn minio() -> PathBuf {
    let cache = std::env::var_os("TIDEMILL_CACHE_DIR").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/tidemill");
    cache.unwrap_or_else(home).join("minio/minio")
}
