//! A real browser without a window: Chromium, told what to do over the
//! DevTools protocol, through a pair of named pipes.

use std::path::Path;
use std::process::Stdio;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::child::Folder;
use crate::tools::{self, Missing};
use crate::wait::{self, TimedOut, within};

/// Each message ends with this byte.
const END: u8 = 0;

/// A browser did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum BrowserError {
    /// There is none.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// It cannot be started or spoken to.
    #[error("the browser: {0}")]
    Io(#[from] std::io::Error),
    /// It says something that is no answer.
    #[error("the browser answered {0}")]
    Answer(String),
    /// It does not answer.
    #[error(transparent)]
    TimedOut(#[from] TimedOut),
}

/// A running browser with one page. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    _process: tokio::process::Child,
    _folder: Folder,
    to: pipe::Sender,
    from: BufReader<pipe::Receiver>,
    session: String,
    calls: u64,
    /// What the page wrote to its console, and exceptions of its script.
    complaints: Vec<String>,
}

/// How wide the page is, and whether its reader prefers the dark.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// The reader's preference.
    pub dark: bool,
}

impl Browser {
    /// Starts it.
    ///
    /// # Errors
    /// [`BrowserError::Missing`] where it is not installed; others.
    pub async fn start() -> Result<Self, BrowserError> {
        let program = tools::find("chromium", "CHROMIUM")?;
        let folder = Folder::new()?;
        let (to, from) = (folder.path().join("to"), folder.path().join("from"));
        let made = Command::new("mkfifo").arg(&to).arg(&from).status().await?;
        if !made.success() {
            return Err(std::io::Error::other(format!("mkfifo: {made}")).into());
        }
        // Both ends at once, so that opening them waits for nobody.
        let options = || {
            let mut options = pipe::OpenOptions::new();
            options.read_write(true);
            options
        };
        let (sender, receiver) = (options().open_sender(&to)?, options().open_receiver(&from)?);
        let log = std::fs::File::create(folder.log())?;
        let process = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<"$TO" 4>"$FROM""#])
            .arg(program)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                // In a container there is no user namespace, and no /dev/shm
                // to speak of.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--hide-scrollbars",
                "--no-first-run",
            ])
            .arg(format!(
                "--user-data-dir={}",
                folder.path().join("profile").display()
            ))
            .env("TO", &to)
            .env("FROM", &from)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .kill_on_drop(true)
            .spawn()?;
        let mut browser = Self {
            _process: process,
            _folder: folder,
            to: sender,
            from: BufReader::new(receiver),
            session: String::new(),
            calls: 0,
            complaints: Vec::new(),
        };
        let target = browser
            .call("Target.createTarget", json!({ "url": "about:blank" }))
            .await?;
        let attached = browser
            .call(
                "Target.attachToTarget",
                json!({ "targetId": target["targetId"], "flatten": true }),
            )
            .await?;
        browser.session = text(&attached["sessionId"])?;
        for domain in ["Runtime.enable", "Page.enable", "Log.enable"] {
            browser.call(domain, json!({})).await?;
        }
        Ok(browser)
    }

    /// Opens a page, and does not wait until it is there.
    ///
    /// # Errors
    /// The browser cannot.
    pub async fn open(&mut self, url: &str) -> Result<(), BrowserError> {
        self.call("Page.navigate", json!({ "url": url })).await?;
        Ok(())
    }

    /// Shows the page otherwise.
    ///
    /// # Errors
    /// The browser cannot.
    pub async fn look(&mut self, look: Look) -> Result<(), BrowserError> {
        let size = json!({
            "width": look.width, "height": look.height,
            "deviceScaleFactor": 1, "mobile": look.width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", size)
            .await?;
        let scheme = if look.dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await?;
        Ok(())
    }

    /// What a JavaScript expression is worth in the page.
    ///
    /// # Errors
    /// It throws, or the browser cannot.
    pub async fn worth(&mut self, expression: &str) -> Result<Value, BrowserError> {
        let asked = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", asked).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            return Err(BrowserError::Answer(thrown.to_string()));
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true in the page.
    ///
    /// # Errors
    /// It does not become so within [`crate::wait::PATIENCE`].
    pub async fn until(&mut self, expression: &str) -> Result<(), BrowserError> {
        let mut page = String::new();
        let became = wait::until(expression, async || {
            let holds = self.worth(expression).await.ok()?;
            if holds != Value::Bool(true) {
                page = self.text().await.unwrap_or_default();
            }
            (holds == Value::Bool(true)).then_some(())
        });
        match became.await {
            Ok(()) => Ok(()),
            Err(late) => Err(BrowserError::Answer(format!("{late}; the page:\n{page}"))),
        }
    }

    /// The page's text, as a reader sees it.
    ///
    /// # Errors
    /// The browser cannot.
    pub async fn text(&mut self) -> Result<String, BrowserError> {
        let shown = self.worth("document.body.innerText").await?;
        text(&shown)
    }

    /// Writes a picture of the page, as PNG.
    ///
    /// # Errors
    /// The browser cannot, or the file cannot be written.
    pub async fn picture(&mut self, to: &Path) -> Result<(), BrowserError> {
        let answer = self
            .call("Page.captureScreenshot", json!({ "format": "png" }))
            .await?;
        let png = BASE64_STANDARD
            .decode(text(&answer["data"])?)
            .map_err(|e| BrowserError::Answer(e.to_string()))?;
        let mut file = File::create(to).await?;
        file.write_all(&png).await?;
        file.flush().await?;
        Ok(())
    }

    /// What the page complained of: errors on its console, refused resources,
    /// exceptions.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Result<Value, BrowserError> {
        self.calls += 1;
        let id = self.calls;
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(END);
        self.to.write_all(&bytes).await?;
        within(method, self.answer(id)).await?
    }

    async fn answer(&mut self, id: u64) -> Result<Value, BrowserError> {
        loop {
            let mut bytes = Vec::new();
            self.from.read_until(END, &mut bytes).await?;
            bytes.pop();
            let mut message: Value = serde_json::from_slice(&bytes)
                .map_err(|e| BrowserError::Answer(format!("what is not JSON: {e}")))?;
            if message["id"] == id {
                if let Some(error) = message.get("error") {
                    return Err(BrowserError::Answer(error.to_string()));
                }
                return Ok(message["result"].take());
            }
            let what = &message["params"];
            let complains = match message["method"].as_str() {
                Some("Runtime.exceptionThrown") => true,
                Some("Runtime.consoleAPICalled") => what["type"] == "error",
                Some("Log.entryAdded") => what["entry"]["level"] == "error",
                _ => false,
            };
            if complains {
                self.complaints.push(what.to_string());
            }
        }
    }
}

fn text(value: &Value) -> Result<String, BrowserError> {
    let text = value.as_str();
    text.map(str::to_owned)
        .ok_or_else(|| BrowserError::Answer(value.to_string()))
}
