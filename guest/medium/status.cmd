@echo off
rem SPDX-License-Identifier: MIT
rem What is there of vmkd in this Windows. Changes nothing. Rules as in install.cmd.
rem
rem Exit status: 0 installed and complete, 1 not installed, 2 incomplete or damaged (it says what), 4 needs an administrator.
setlocal enableextensions disabledelayedexpansion
set "KEEP=%SystemRoot%\vmkd"
set "JOURNAL=%KEEP%\journal.txt"
set "SYSTEM32=%SystemRoot%\System32"
set "PATH=%SystemRoot%\System32"
rem A variable of this name would hide the exit status.
set "ERRORLEVEL="
set "PATHEXT=.COM;.EXE;.BAT;.CMD"
cd /d "%SystemRoot%"
set "RESULT=0"

reg query HKU\S-1-5-19 >nul 2>nul
if not "%errorlevel%"=="0" goto :not_admin
set "OPTIONS="
for /f "tokens=2*" %%a in ('reg query HKLM\SYSTEM\CurrentControlSet\Control /v SystemStartOptions 2^>nul') do if "%%a"=="REG_SZ" set "OPTIONS=%%b"
echo this Windows was started with: %OPTIONS%
if exist "%KEEP%\setup.txt" echo prepared from outside, by "vmkd setup", whose journal is %KEEP%\setup.txt& exit /b 0
if exist "%JOURNAL%" goto :have_journal
echo not installed
exit /b 1
:have_journal
find "done*-*-*end" <"%JOURNAL%" >nul
if not "%errorlevel%"=="0" call :bad the installation was cut short: run uninstall.cmd, then install.cmd
for /f "usebackq tokens=1-4 delims=*" %%a in ("%JOURNAL%") do if "%%d"=="end" call :look %%a "%%b" "%%c"
if "%RESULT%"=="0" echo complete
exit /b %RESULT%

:not_admin
echo vmkd: this needs an administrator. Start cmd with "Run as administrator", then run status.cmd in it.
exit /b 4

:look
for %%k in (file service eventlog cert bootini entry kdcom) do if "%1"=="%%k" goto :look_%%k
exit /b 0
:look_file
if not exist "%SystemRoot%\%~2" call :bad %SystemRoot%\%~2 is missing& exit /b 0
echo file              %SystemRoot%\%~2
exit /b 0
:look_service
sc query vmkd >nul 2>nul
if not "%errorlevel%"=="0" call :bad the service vmkd is missing& exit /b 0
set "RUNS=not running"
sc query vmkd | find " 4 " >nul
if "%errorlevel%"=="0" set "RUNS=running"
echo service           vmkd, %RUNS%
exit /b 0
:look_eventlog
reg query HKLM\SYSTEM\CurrentControlSet\Services\EventLog\System\vmkd >nul 2>nul
if not "%errorlevel%"=="0" call :bad the event source vmkd is missing& exit /b 0
echo event source      vmkd
exit /b 0
:look_cert
certutil -store %~2 %~3 >nul 2>nul
if not "%errorlevel%"=="0" call :bad the test certificate is not in %~2& exit /b 0
echo certificate       %~2
exit /b 0
:look_bootini
find "/DEBUGPORT=vmkd" <"%~2" >nul
if not "%errorlevel%"=="0" call :bad %~2 has no line with /DEBUGPORT=vmkd& exit /b 0
echo boot entry        in %~2
exit /b 0
:look_entry
if "%~2"=="-" exit /b 0
bcdedit /enum %~2 >nul 2>nul
if not "%errorlevel%"=="0" call :bad the boot entry %~2 is missing& exit /b 0
echo boot entry        %~2
exit /b 0
:look_kdcom
fc /b "%KEEP%\kdvmkd.dll" "%SYSTEM32%\kdcom.dll" >nul
if not "%errorlevel%"=="0" call :bad kdcom.dll is not ours any more, an update may have put a new one there: run uninstall.cmd, then install.cmd& exit /b 0
echo transport module  %SYSTEM32%\kdcom.dll
exit /b 0

:bad
echo WRONG: %*
set "RESULT=2"
exit /b 0
